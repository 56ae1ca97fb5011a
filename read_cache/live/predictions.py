"""A jsonl file of predictions that grows while they are made, and resumes after a killed run."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from read_cache.errors import UserError
from read_cache.live.lines import Line
from read_cache.live.predict import Prediction, Predictor
from read_cache.networks.saved import alone, writing

SAME = 0.02
"""Probabilities and scores that differ by no more may be of the same network, on another machine."""


class PredictionFile:
    """One JSON object for each line of the input and each network; those of one line are together.

    Lines that the predictor reads together are predicted again together, so a run that was killed and resumed leaves
    the same bytes as one that was not.
    """

    def __init__(self, path: Path, predictor: Predictor) -> None:
        self.path, self.predictor = path, predictor
        self.done = 0
        """Number of input lines whose predictions are in the file."""
        self.end = 0
        """Number of bytes that hold them."""

    def remaining(self, lines: Iterator[Line]) -> Iterator[Line]:
        """Return the lines that are still to be predicted.

        Raises UserError if the file holds predictions of other texts or networks, or something else.
        """
        again: list[Line] = []
        first: list[tuple[Line, list[Prediction]]] = []
        count, end = 0, 0
        for number, text, predictions, end in self._complete():
            line = next(lines, None)
            if line is None or line[0] != number or "\t".join(self.predictor.texts(line)) != text:
                raise UserError(
                    f"{self.path} holds predictions of another input: its line {number} is {text!r}. "
                    "Give another file to write, or remove it"
                )
            count += 1
            if len(first) < self.predictor.window:
                first.append((line, predictions))
            again.append(line)
            if len(again) == self.predictor.window:
                again, self.done, self.end = [], count, end
        following = next(lines, None)
        if following is None:
            self.done, self.end = count, end
        if self.done:
            self._check_networks(first)
        if following is None:
            return iter(())
        return chain(again, [following], lines)

    def _check_networks(self, first: list[tuple[Line, list[Prediction]]]) -> None:
        """Raise UserError if the networks predict otherwise than the file's first predictions: they were retrained."""
        cut_before = self.predictor.cut
        predicted = list(self.predictor.predict(line for line, _ in first))
        self.predictor.cut = cut_before  # counts the texts that this run predicts
        for found, (_, held) in zip(predicted, first, strict=True):
            for now, then in zip(found, held, strict=True):
                if not same(now, then):
                    raise UserError(
                        f"{self.path} holds predictions of another network {now.network}, which predicts otherwise for "
                        f"its line {now.line}: give another file to write, or remove it"
                    )

    def _complete(self) -> Iterator[tuple[int, str, list[Prediction], int]]:
        """Yield (number, text, predictions, bytes up to here) of each input line that has one of every network."""
        names, end = self.predictor.names, 0
        if not self.path.exists():
            return
        try:
            with self.path.open("rb") as file:
                while group := [raw for raw in (file.readline() for _ in names) if raw.endswith(b"\n")]:
                    predictions = [Prediction(**json.loads(raw)) for raw in group]
                    if tuple(one.network for one in predictions) != names[: len(predictions)]:
                        raise UserError(
                            f"{self.path} holds predictions of other networks ({predictions[0].network}): "
                            "give another file to write, or remove it"
                        )
                    if len(group) < len(names):
                        return
                    end += sum(map(len, group))
                    yield predictions[0].line, predictions[0].text, predictions, end
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{self.path} is no file of predictions ({error}): give another file to write") from error

    def append(self, predictions: Iterator[list[Prediction]]) -> Iterator[int]:
        """Write predictions as they come, after what is complete; yield how many lines of the input are done."""
        with writing(self.path), self.path.open("ab") as file:
            file.truncate(self.end)
            for of_line in predictions:
                for one in of_line:
                    file.write((json.dumps(dataclasses.asdict(one), ensure_ascii=False) + "\n").encode())
                file.flush()
                self.done += 1
                yield self.done


def same(now: Prediction, then: Prediction) -> bool:
    """Return True if two predictions for a text may be of the same network.

    Probabilities are compared if there are any, else scores, else texts.
    """
    if now.probabilities or then.probabilities:
        shares = then.probabilities
        return now.probabilities.keys() == shares.keys() and all(
            abs(share - shares[label]) <= SAME for label, share in now.probabilities.items()
        )
    if now.value is None or then.value is None:
        return now.label == then.label
    return abs(now.value - then.value) <= SAME


@contextlib.contextmanager
def predicting_alone(path: Path) -> Iterator[None]:
    """Hold the lock of a file of predictions. Raises UserError if another process does, or it cannot be written."""
    mend = "wait for it and run the same command again, which resumes; or give another file to write"
    with alone(path, path.with_name(f"{path.name}.lock"), "another process is writing", mend):
        yield
