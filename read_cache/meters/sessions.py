"""Where an extraction keeps its readings: in the store, one file a session, so that workers never share one.

They are facts about sessions and no part of a store's content: no digest is over them, `verify` does not look at them,
and two stores of the same bytes have different ones.
"""

import functools
import json
import operator
import time
import uuid
from types import TracebackType
from typing import Any, Self

from read_cache.errors import StoreError
from read_cache.meters.gauges import attempt
from read_cache.meters.meter import Meter
from read_cache.meters.readings import Missing, Readings
from read_cache.store.files import Files

FOLDER = "meters"
KEEP_EVERY = 10.0
"""Seconds between two writes of a session's file: a hundredth of that is more than a write takes."""


class SessionFile:
    """Keeps a meter's readings while it is open, and when it ends, whatever ends it.

    A kill loses what came after the last time. Where a write fails the last readings stay: a meter must not end the
    run it measures.
    """

    def __init__(self, files: Files, meter: Meter) -> None:
        self._files, self._meter = files, meter
        self._name = f"{FOLDER}/{uuid.uuid4().hex}.json"
        self._kept = float("-inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._keep()

    def keep_if_due(self) -> None:
        """Write the readings so far if the last time is `KEEP_EVERY` seconds ago, or never was."""
        if time.monotonic() - self._kept > KEEP_EVERY:
            self._keep()

    def _keep(self) -> None:
        data = json.dumps(self._meter.read().to_json()).encode()
        attempt(lambda: self._files.write(self._name, data))
        self._kept = time.monotonic()


def read_sessions(files: Files) -> Readings | None:
    """The sum of a store's sessions; None where none was kept. Raises StoreError for a file that holds no readings.

    Workers' sessions add up like any others: seconds of each, and, on one machine, the same energy once for each.
    """
    sessions = []
    for name in sorted(name for name in files.sizes(FOLDER) if name.endswith(".json")):
        try:
            sessions.append(Readings.from_json(json.loads(files.read(name))))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{name} in the store holds no readings ({error!r}): delete it") from error
    return functools.reduce(operator.add, sessions) if sessions else None


def sessions_json(files: Files) -> dict[str, Any]:
    """What `read_sessions` gives as JSON, or {"not_measured": why}; never raises."""
    found = attempt(lambda: read_sessions(files))
    if found is None:
        return {"not_measured": "no session that filled the store kept its readings"}
    return {"not_measured": found.why} if isinstance(found, Missing) else found.to_json()
