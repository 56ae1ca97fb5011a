"""read-cache: run a frozen language model once, keep what its layers computed, train side networks from that alone.

    text ──► extraction/ (a backbone, once) ──► store/ (Zarr) ──► loader/ ──► training/ ──► networks on disk ──► live/
    text ──► methods/ (live) ───────────────────────────────► the same loop, heads, metrics, results

    read_cache.extract("minilm-l6", "mrpc", dataset="glue/mrpc")      # -> stores/minilm-l6/mrpc
    results = read_cache.train("stores/minilm-l6/mrpc", network=["read", "probe"], seed=[0, 1, 2])
    results.frame                                                     # pandas

Stage two (store, loader, networks, scoring, train) never imports transformers or a backbone; the linter and a test
check it. Everything here is imported on first use, so that `import read_cache` costs nothing.
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from read_cache.api.extraction import extract as extract
    from read_cache.api.importing import import_states as import_states
    from read_cache.api.networks import ensemble as ensemble
    from read_cache.api.networks import evaluate as evaluate
    from read_cache.api.prediction import predict as predict
    from read_cache.api.training import finetune as finetune
    from read_cache.api.training import train as train
    from read_cache.comparison import compare as compare
    from read_cache.errors import StoreError as StoreError
    from read_cache.errors import UserError as UserError
    from read_cache.live.attach import attach as attach
    from read_cache.networks.saved import load_network as load_network
    from read_cache.report.inspection import inspect as inspect
    from read_cache.store.export import export_states as export_states
    from read_cache.store.reader import StoreReader
    from read_cache.training.callbacks import Callback as Callback

    open_store = StoreReader

__version__ = version("read-cache")

_HOMES = {
    "attach": "read_cache.live.attach:attach",
    "compare": "read_cache.comparison:compare",
    "ensemble": "read_cache.api.networks:ensemble",
    "evaluate": "read_cache.api.networks:evaluate",
    "export_states": "read_cache.store.export:export_states",
    "extract": "read_cache.api.extraction:extract",
    "finetune": "read_cache.api.training:finetune",
    "inspect": "read_cache.report.inspection:inspect",
    "import_states": "read_cache.api.importing:import_states",
    "load_network": "read_cache.networks.saved:load_network",
    "open_store": "read_cache.store.reader:StoreReader",
    "predict": "read_cache.api.prediction:predict",
    "train": "read_cache.api.training:train",
    "Callback": "read_cache.training.callbacks:Callback",
    "StoreError": "read_cache.errors:StoreError",
    "UserError": "read_cache.errors:UserError",
}
"""Module and attribute of each name."""
__all__ = [*sorted(_HOMES), "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        module, _, attribute = _HOMES[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
