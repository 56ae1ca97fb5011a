"""Functions that long work calls as it goes on."""

import dataclasses
from collections.abc import Callable
from typing import Any


def _nothing(*values: object) -> None:
    """Do nothing. A lambda could not be pickled, which engines with processes of their own need."""


def _never() -> bool:
    return False


@dataclasses.dataclass(frozen=True)
class Watch:
    """Functions that an extraction, a training or a prediction calls. By default they do nothing."""

    say: Callable[[str], None] = _nothing
    """Called with a sentence about the work."""
    progress: Callable[[str, int, int], None] = _nothing
    """Called after each step with the name of the work, how much is done, and how much there is; 0 if unknown."""
    stopped: Callable[[], bool] = _never
    """Called between two steps of a training, which ends if it returns True, as after Ctrl-C; the state is saved."""
    event: Callable[[str, Any], None] = _nothing
    """Called with the name of a method of `read_cache.Callback` and its argument; `callbacks` of `train` sets it."""
