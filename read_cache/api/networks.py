"""`read_cache.evaluate`."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from read_cache.api.table import RecordsTable
from read_cache.config import EvaluateConfig
from read_cache.errors import UserError
from read_cache.settings import read_settings

if TYPE_CHECKING:
    from read_cache.store.reader import StoreReader

Paths = str | Path | Iterable[str | Path]


def evaluate(
    store: "str | Path | StoreReader",
    networks: Paths = (),
    *,
    split: str | None = None,
    baselines: bool = False,
    **settings: Any,
) -> RecordsTable:
    """Return a table of each network's kind, metric and its parts (times 100), and loss on a split of a store.

    Args:
        store: the store, or its path.
        networks: folders of networks, or folders of such folders.
        split: `validation` or `test`; by default test, or validation without a test split.
        baselines: add the majority class and the untrained backbone.
        settings: fields of `read_cache.config.EvaluateConfig`.

    Raises:
        UserError: networks of another backbone or task, a damaged store or network.
    """
    from read_cache.networks.saved import find_networks
    from read_cache.scoring.baselines import baselines as all_baselines
    from read_cache.store.reader import StoreReader
    from read_cache.training.evaluation import evaluate_saved

    (config,) = read_settings(settings, EvaluateConfig)
    folders = find_networks(as_paths(networks))
    if not folders and not baselines:
        raise UserError("nothing to evaluate: give networks, or ask for baselines")
    reader = store if isinstance(store, StoreReader) else StoreReader(store)
    name = split or ("test" if "test" in reader.manifest.splits else "validation")
    reader.split(name)
    rows: list[dict[str, Any]] = []
    for (kind, network), result in evaluate_saved(reader, folders, name, config).items():
        parts = result.details if len(result.details) > 1 else {}
        rows.append({"kind": kind, "network": network, "metric": result.metric, **parts, "loss": result.loss})
    if baselines:
        rows += [{"kind": "-", "network": who, "metric": by[name]} for who, by in all_baselines(reader, [name]).items()]
    return RecordsTable({"task": reader.manifest.task.name, "split": name} | row for row in rows)


def as_paths(paths: Paths) -> list[Path]:
    """Return one path or several as a list."""
    return [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
