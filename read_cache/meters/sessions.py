"""Readings of an extraction, kept in the store: one file a session, so that workers never share one.

They describe sessions and are not part of a store's content: no digest covers them, and `verify` ignores them.
"""

import contextlib
import functools
import json
import operator
import time
import uuid
from typing import Any

from read_cache.errors import StoreError, UserError
from read_cache.meters.meter import Meter
from read_cache.meters.readings import Readings
from read_cache.store.files import Files

FOLDER = "meters"
KEEP_EVERY = 10.0
"""Seconds between two writes of a session's file."""


class SessionFile:
    """Context manager that writes a meter's readings to a store, at the end by an error too.

    A kill loses the readings since the last write. A write that fails is skipped: a meter must not end the run that it
    measures.
    """

    def __init__(self, files: Files, meter: Meter) -> None:
        self._files, self._meter = files, meter
        self._name = f"{FOLDER}/{uuid.uuid4().hex}.json"
        self._written = float("-inf")

    def __enter__(self) -> "SessionFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def keep_if_due(self) -> None:
        """Write the readings so far if the last write is more than `KEEP_EVERY` seconds ago."""
        if time.monotonic() - self._written > KEEP_EVERY:
            self._write()

    def _write(self) -> None:
        with contextlib.suppress(Exception):
            self._files.write(self._name, json.dumps(self._meter.read().to_json()).encode())
        self._written = time.monotonic()


def read_sessions(files: Files) -> Readings | None:
    """Return the sum of a store's sessions; None if it keeps none. Raises StoreError for a file without readings.

    Sessions of workers add up too: of workers on one machine, each has the energy of the whole machine.
    """
    sessions = []
    for name in sorted(name for name in files.sizes(FOLDER) if name.endswith(".json")):
        try:
            sessions.append(Readings.from_json(json.loads(files.read(name))))
        except (ValueError, UserError) as error:
            raise StoreError(f"{name} in the store holds no readings ({error}): delete it") from error
    return functools.reduce(operator.add, sessions) if sessions else None


def sessions_json(files: Files) -> dict[str, Any] | None:
    """Return the sum of a store's sessions as JSON; None if it keeps none or one cannot be read."""
    with contextlib.suppress(Exception):
        if readings := read_sessions(files):
            return readings.to_json()
    return None
