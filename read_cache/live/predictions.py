"""A jsonl file of predictions that grows while they are made, and resumes after a killed run."""

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from read_cache.errors import UserError
from read_cache.live.predict import Line, Prediction, Predictor
from read_cache.networks.saved import alone, writing


class PredictionFile:
    """One JSON object for each line of the input and each network; those of one line are together.

    Lines that the predictor reads together are predicted again together, so a run that was killed and resumed leaves
    the same bytes as one that was not.
    """

    def __init__(self, path: Path, predictor: Predictor) -> None:
        self.path, self.predictor = path, predictor
        self.done = 0
        """Number of input lines whose predictions are kept in the file."""
        self.end = 0
        """Number of bytes that hold them."""

    def remaining(self, lines: Iterator[Line]) -> Iterator[Line]:
        """Return the lines that are still to be predicted.

        Raises UserError if the file holds predictions of other texts or networks, or something else.
        """
        again: list[Line] = []
        for predictions, end in self._complete():
            line, expected = next(lines, None), predictions[0]
            if line is None or (line[0], self.predictor.shown(line)) != (expected.line, expected.text):
                raise self._refused(f"another input: its line {expected.line} is {expected.text!r}")
            again.append(line)
            if len(again) == self.predictor.window:
                self.done, self.end, again = self.done + len(again), end, []
        return chain(again, lines)

    def _complete(self) -> Iterator[tuple[list[Prediction], int]]:
        """Yield (predictions, number of bytes up to their end) of each input line that has one of every network."""
        names, end = self.predictor.names, 0
        if not self.path.exists():
            return
        try:
            with self.path.open("rb") as file:
                while group := [raw for raw in (file.readline() for _ in names) if raw.endswith(b"\n")]:
                    predictions = [Prediction(**json.loads(raw)) for raw in group]
                    if tuple(one.network for one in predictions) != names[: len(group)]:
                        raise self._refused(f"other networks ({predictions[0].network})")
                    if len(group) < len(names):
                        return
                    end += sum(map(len, group))
                    yield predictions, end
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{self.path} is no file of predictions ({error}): give another file to write") from error

    def _refused(self, held: str) -> UserError:
        return UserError(f"{self.path} holds predictions of {held}. Give another file to write, or remove it")

    def append(self, predictions: Iterable[list[Prediction]]) -> Iterator[int]:
        """Write predictions as they come, after those that are kept; yield how many lines of the input are done."""
        with writing(self.path), self.path.open("ab") as file:
            file.truncate(self.end)
            for by_network in predictions:
                for one in by_network:
                    file.write((json.dumps(dataclasses.asdict(one), ensure_ascii=False) + "\n").encode())
                file.flush()
                self.done += 1
                yield self.done


@contextlib.contextmanager
def predicting_alone(path: Path) -> Iterator[None]:
    """Hold the lock of a file of predictions. Raises UserError if another process does, or it cannot be written."""
    mend = "wait for it and run the same command again, which resumes; or give another file to write"
    with alone(path, path.with_name(f"{path.name}.lock"), "another process is writing", mend):
        yield
