"""This machine in a few words, and what was measured on it, kept in the user's cache and used again."""

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from read_cache.device import check_device

LIBRARIES = ("read-cache", "numpy", "torch", "transformers")
FORMAT = 1
"""Of what is kept: raised when what is measured, or what it is called, changes."""
Record = dict[str, Any]
"""JSON."""


def kept_folder() -> Path:
    """Where calibrations are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "read-cache"


def machine_key(device: str) -> Record:
    """What a measured time depends on besides the work: processor, device, threads and versions. Raises UserError."""
    check_device(device)
    kind = torch.device(device).type
    name = torch.cuda.get_device_name(device) if kind == "cuda" else kind
    return {
        "host": platform.node(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": name,
        **{library: importlib.metadata.version(library) for library in LIBRARIES},
    }


class Kept:
    """Calibrations of this machine: each is measured once, unless `again`."""

    def __init__(self, device: str, again: bool = False, tell: Callable[[str], None] = lambda what: None) -> None:
        self.machine, self.again, self.tell = machine_key(device), again, tell
        self.used: list[Record] = []
        """What each of the calibrations that were asked for says of itself."""

    def get(self, kind: str, key: Record, measure: Callable[[], Record]) -> Record:
        """The calibration of that kind for `key`; measured and kept where there is none. A file that is damaged is
        none, and a folder that cannot be written keeps nothing."""
        whole = {"kind": kind, "format": FORMAT, **self.machine, **key}
        digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]
        path = kept_folder() / f"{kind}-{digest}.json"
        record = None if self.again else _read(path)
        if record is None:
            self.tell(f"measuring this machine: {kind} …")
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            load = os.getloadavg()[0]
            record = {"key": whole, "measured": now, "load_average": load, "found": measure()}
            _write(path, record)
        about = {"kind": kind, "measured": record["measured"], "load_average": record["load_average"]}
        self.used.append({**about, "file": str(path)})
        return record["found"]


def _read(path: Path) -> Record | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(record, dict) and {"found", "measured", "load_average"} <= set(record)
    return record if whole else None


def _write(path: Path, record: Record) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except OSError:
        return
