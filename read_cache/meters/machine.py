"""A description of the machine that measurements are made on."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path

import torch

LIBRARIES = ("read-cache", "numpy", "torch", "transformers", "zarr", "crc32c")


def machine_facts() -> dict[str, int | float | str]:
    """Return cores, processor, memory, load, threads and versions."""
    facts = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    named = re.search(r"model name\s*:\s*(.*)", facts)
    return {
        "cores": os.cpu_count() or 0,
        "cpu": named[1] if named else platform.processor(),
        "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        "load_average": os.getloadavg()[0],
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
    }
