"""A predictor that waits until a test lets it go on."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from read_cache.live.predict import Predictor


class Hold:
    """Predictions that wait, and the numbers of rows of those that have begun."""

    def __init__(self) -> None:
        self.released, self.begun = threading.Event(), list[int]()

    def release(self) -> None:
        """Let all predictions go on."""
        self.released.set()

    def until(self, moment: Callable[[], bool]) -> None:
        """Wait for a moment."""
        end = time.monotonic() + 30
        while not moment():
            assert time.monotonic() < end, "the moment did not come"
            time.sleep(0.01)


@contextlib.contextmanager
def held(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hold]:
    """Hold the predictions of a predictor until they are released, at the latest at the end."""
    hold, predict = Hold(), predictor.predict_texts

    def predict_texts(texts, networks):
        hold.begun.append(len(texts))
        assert hold.released.wait(60)
        return predict(texts, networks)

    with monkeypatch.context() as patch:
        patch.setattr(predictor, "predict_texts", predict_texts)
        try:
            yield hold
        finally:
            hold.release()
