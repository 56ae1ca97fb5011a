"""Where an extraction keeps its readings: in the store, one file a session, so that workers never share one."""

import contextlib
import functools
import json
import operator
import uuid

from read_cache.errors import StoreError
from read_cache.meters.readings import Readings
from read_cache.store.files import Files

FOLDER = "meters"


class SessionFile:
    """The readings of one session, kept again and again, so that a kill loses only what came after the last time."""

    def __init__(self, files: Files) -> None:
        self._files, self._name = files, f"{FOLDER}/{uuid.uuid4().hex}.json"

    def keep(self, readings: Readings) -> None:
        """Replace what was kept. Where that fails the last readings stay: a meter must not end the run it measures."""
        with contextlib.suppress(OSError, StoreError):
            self._files.write(self._name, json.dumps(readings.to_json()).encode())


def read_sessions(files: Files) -> Readings | None:
    """The sum of a store's sessions; None where none was kept. Raises StoreError for a file that holds no readings.

    Workers' sessions add up like any others: seconds of each, and, on one machine, the same energy once for each.
    """
    names = [name for name in sorted(files.sizes(FOLDER)) if name.endswith(".json")]
    sessions = []
    for name in names:
        try:
            sessions.append(Readings.from_json(json.loads(files.read(name))))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{name} in the store holds no readings ({error!r}): delete it") from error
    return functools.reduce(operator.add, sessions) if sessions else None
