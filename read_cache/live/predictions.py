"""A jsonl file of predictions that grows while they are made, and goes on where a killed run left it."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from read_cache.errors import UserError
from read_cache.live.predict import Line, Prediction, Predictor
from read_cache.networks.saved import alone, writing

SAME = 0.02
"""Probabilities that differ by no more may be of one network, on another machine."""


class PredictionFile:
    """One JSON object a line of the input and network, those of one line of the input together.

    Lines that the predictor reads together are predicted again together, so a run that was killed and went on leaves
    the bytes of one that was not.
    """

    def __init__(self, path: Path, predictor: Predictor) -> None:
        self.path, self.predictor = path, predictor
        self.done = 0
        """Lines of the input whose predictions are there."""
        self.end = 0
        """Bytes that hold them."""

    def remaining(self, lines: Iterator[Line]) -> Iterator[Line]:
        """The lines that are still to be predicted.

        Raises UserError where the file holds predictions of other texts or networks, or something else.
        """
        again: list[Line] = []
        first: list[tuple[Line, list[Prediction]]] = []
        found, end = 0, 0
        for number, text, said, end in self._complete():
            line = next(lines, None)
            if line is None or line[0] != number or self.predictor.text(line) != text:
                raise UserError(
                    f"{self.path} holds predictions of another input: its line {number} is {text!r}. "
                    "Give another --out, or remove it"
                )
            found += 1
            if len(first) < self.predictor.window:
                first.append((line, said))
            again.append(line)
            if len(again) == self.predictor.window:
                again, self.done, self.end = [], found, end
        following = next(lines, None)
        if following is None:
            self.done, self.end = found, end
        if self.done:
            self._check_networks(first)
        if following is None:
            return iter(())
        return chain(again, [following], lines)

    def _check_networks(self, first: list[tuple[Line, list[Prediction]]]) -> None:
        """UserError where the first predictions are not what the networks say: they were trained again since."""
        cut_before = self.predictor.encoder.cut
        predicted = list(self.predictor.predict(line for line, _ in first))
        self.predictor.encoder.cut = cut_before  # of this run are the texts that it predicts
        for found, (_, there) in zip(predicted, first, strict=True):
            for now, then in zip(found, there, strict=True):
                if now.probabilities.keys() != then.probabilities.keys() or any(
                    abs(share - then.probabilities[label]) > SAME for label, share in now.probabilities.items()
                ):
                    raise UserError(
                        f"{self.path} holds predictions of another network {now.network}, which gives other shares "
                        f"to its line {now.line}: give another --out, or remove it"
                    )

    def _complete(self) -> Iterator[tuple[int, str, list[Prediction], int]]:
        """(number, text, predictions, bytes up to here) of each line of the input that every network has one of."""
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
                            "give another --out, or remove it"
                        )
                    if len(group) < len(names):
                        return
                    end += sum(map(len, group))
                    yield predictions[0].line, predictions[0].text, predictions, end
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{self.path} is no file of predictions ({error}): give another --out") from error

    def append(self, predictions: Iterator[list[Prediction]]) -> Iterator[int]:
        """Write predictions as they come, after what is complete; yields how many lines of the input are done."""
        with writing(self.path), self.path.open("ab") as file:
            file.truncate(self.end)
            for of_line in predictions:
                for one in of_line:
                    file.write((json.dumps(dataclasses.asdict(one), ensure_ascii=False) + "\n").encode())
                file.flush()
                self.done += 1
                yield self.done


@contextlib.contextmanager
def predicting_alone(path: Path) -> Iterator[None]:
    """Hold a file of predictions. UserError where another process writes it, or it cannot be written."""
    mend = "wait for it, and the same command goes on there; or give another --out"
    with alone(path, path.with_name(f"{path.name}.lock"), "another process is writing", mend):
        yield
