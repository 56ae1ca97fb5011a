"""read-cache: run a frozen T5 once, keep what its layers said, train READ side networks from that alone.

    text ──► extract/ (the backbone, once) ──► store/ (Zarr) ──► train/ (side networks, many) ──► networks on disk
                                                   └──► evaluate.py          predict.py: text ──► one pass ──► networks

Three rooms, and who may import whom (checked by the linter and by the tests):

    extract/   may import transformers and datasets, as live/ beside it may; knows the store
    store/     the contract between the stages: numpy and zarr, no torch
    train/     torch and the store; never extract, transformers or datasets

In Python: `load_network(folder)` gives a trained network, `attach(backbone, networks)` puts networks beside a live T5.
Both are imported on first use, so that `import read_cache` costs nothing.
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from read_cache.live.attach import attach
    from read_cache.networks.saved import load_network

__all__ = ["__version__", "attach", "load_network"]
__version__ = version("read-cache")

_HOMES = {"attach": "read_cache.live.attach", "load_network": "read_cache.networks.saved"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
