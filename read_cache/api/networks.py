"""`read_cache.evaluate`, `open_store` and `load_network`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from read_cache.api.table import RecordsTable
from read_cache.api.training import Paths
from read_cache.config import EvaluateConfig
from read_cache.errors import UserError
from read_cache.settings import parse

if TYPE_CHECKING:
    from read_cache.networks.saved import TrainedNetwork
    from read_cache.store.reader import StoreReader


def open_store(store: str | Path) -> "StoreReader":
    """Open a sealed store. Raises StoreError if there is none, or if it is not complete."""
    from read_cache.store.reader import StoreReader

    return StoreReader(store)


def load_network(folder: str | Path) -> "TrainedNetwork":
    """Return a trained network in evaluation mode. Raises UserError if the folder holds none or is damaged."""
    from read_cache.networks.saved import load_network as load

    return load(folder)


def evaluate(
    store: "str | Path | StoreReader",
    networks: Paths = (),
    *,
    split: str | None = None,
    baselines: bool = False,
    **settings: Any,
) -> RecordsTable:
    """Return metrics of trained networks, and of baselines, on a split of a store.

    Args:
        store: the store, or its path.
        networks: folders of networks, or folders of such folders.
        split: `validation` or `test`; by default test, or validation without a test split.
        baselines: add the majority class and the untrained backbone.
        settings: fields of `read_cache.config.EvaluateConfig`.

    Returns:
        A table with a row for each network: its kind, metric (times 100), the metric's parts and loss.

    Raises:
        UserError: networks of another backbone or task, a damaged store or network.
    """
    from read_cache.networks.saved import find_networks
    from read_cache.scoring.baselines import baselines as all_baselines
    from read_cache.store.reader import StoreReader
    from read_cache.training.evaluation import evaluate_saved

    config = parse(EvaluateConfig, settings, "settings")
    paths = [networks] if isinstance(networks, str | Path) else list(networks)
    folders = find_networks([Path(path) for path in paths])
    if not folders and not baselines:
        raise UserError("nothing to evaluate: give networks, or ask for baselines")
    reader = store if isinstance(store, StoreReader) else StoreReader(store)
    name = split or ("test" if "test" in reader.manifest.splits else "validation")
    reader.split(name)
    rows: list[dict[str, Any]] = []
    for (kind, network), found in evaluate_saved(reader, folders, name, config).items():
        parts = found.details if len(found.details) > 1 else {}
        rows.append({"kind": kind, "network": network, "metric": found.metric, **parts, "loss": found.loss})
    if baselines:
        rows += [{"kind": "-", "network": who, "metric": by[name]} for who, by in all_baselines(reader, [name]).items()]
    return RecordsTable([{"task": reader.manifest.task.name, "split": name} | row for row in rows])
