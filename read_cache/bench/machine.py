"""The machine and the versions a figure was made with."""

import importlib.metadata
import os
import platform
from pathlib import Path

import torch

LIBRARIES = ("read-cache", "numpy", "torch", "transformers", "zarr", "crc32c")


def machine_facts() -> dict[str, int | float | str]:
    """Cores, processor, memory, load, threads and versions."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cores": len(affinity(0)) if affinity else os.cpu_count() or 0,
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "memory_gb": int((_field("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) / 1e6,
        "load_average": os.getloadavg()[0],
        "torch_threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def _field(path: str, name: str) -> str:
    """The first value of that name in a file of `name: value` lines; empty where there is none."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
