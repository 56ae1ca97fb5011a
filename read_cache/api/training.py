"""`read_cache.train`: stage two. `read_cache.finetune`: live methods, for comparison."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from read_cache.api.table import RecordsTable
from read_cache.config import Place
from read_cache.errors import StoreError, UserError
from read_cache.meters.readings import Readings, summary
from read_cache.settings import check_value, fields_of, parse, split_texts
from read_cache.store.folder import StoreFolder, find_stores
from read_cache.store.reader import StoreReader
from read_cache.training.callbacks import Callbacks, reporting
from read_cache.training.from_store import FromStore
from read_cache.training.recipe import Kinds, Recipe, load_recipe, side_networks
from read_cache.training.results import Result, best_result
from read_cache.training.run import Setup, run_sweep
from read_cache.watch import Watch

Stores = str | Path | StoreReader | Iterable[str | Path | StoreReader]
ALIASES = {"network": "kind", "method": "kind", "lr": "learning_rate"}
"""Short names of settings."""


class Results(RecordsTable):
    """Table of a run, which `train` and `finetune` return: one record for each network, and the typed results."""

    SHOWN = ("task", "kind", "network", "validation", "test", "best_epoch", "parameters", "parameters_percent", "stop")

    def __init__(self, results: Sequence[Result], finals: Sequence[Sequence[Result]] = ()) -> None:
        """`finals` holds the results of each store's best network over the final seeds."""
        alike = len({result.store for result in results}) > len({result.task for result in results})
        shown = (self.SHOWN[0], "store", *self.SHOWN[1:]) if alike else self.SHOWN  # several stores of one task
        super().__init__({name: getattr(result, name) for name in shown} for result in results)
        self.results = list(results)
        self.finals = RecordsTable(final_record(final) for final in finals)
        """One record for each store: the best network's mean and sample deviation over the final seeds."""

    @property
    def best(self) -> Result:
        """The result with the best validation metric. Raises UserError if no network finished an epoch."""
        return best_result(self.results)


def final_record(final: Sequence[Result]) -> dict[str, Any]:
    """Return the record of one network over its seeds. A metric that a seed lacks is None."""
    record: dict[str, Any] = {"task": final[0].task, "network": final[0].label, "seeds": len(final)}
    for split in ("validation", "test", "validation_and_test"):
        scores = [score for result in final if (score := getattr(result, split)) is not None]
        complete = len(scores) == len(final)
        record[split] = fmean(scores) if complete else None
        record[f"{split} ±"] = stdev(scores) if complete and len(scores) > 1 else None
    return record


def train(
    store: Stores,
    out: str | Path | None = None,
    *,
    recipe: str | Path | Recipe | None = None,
    callbacks: Callbacks = (),
    watch: Watch = Watch(),
    texts: Sequence[str] = (),
    **settings: Any,
) -> Results:
    """Train side networks from stores alone; several values of a setting make a grid.

    Networks that have a result in `out` are not trained again, and an interrupted run continues.

    Args:
        store: a store, its path, a folder of stores, or several of these.
        out: folder for networks and results.jsonl; by default runs/ with the store's path below stores/.
        recipe: a TOML file, or a bundled recipe by name (such as paper).
        callbacks: an object of `read_cache.Callback`, the name of a logger (tensorboard, mlflow, wandb), or several.
        watch: functions to call.
        texts: further settings as text, such as "hidden=64,128".
        settings: `network` (kinds of `read_cache.networks.NETWORKS`), fields of their settings, `head`, `lr`, `seed`,
            fields of `read_cache.config.RunConfig` and `Place`.

    Raises:
        UserError: bad settings or stores, a full disk, every network diverged.
    """
    return _run(FromStore, side_networks(), store, out, recipe, callbacks, watch, texts, settings)


def finetune(
    store: Stores,
    out: str | Path | None = None,
    *,
    recipe: str | Path | Recipe | None = None,
    callbacks: Callbacks = (),
    watch: Watch = Watch(),
    texts: Sequence[str] = (),
    **settings: Any,
) -> Results:
    """Train live methods on the rows of stores, with the backbone in the loop, for comparison with side networks.

    Rows, order, schedule, head, early stopping, results and arguments are those of `train`. `method` takes kinds of
    `read_cache.methods.METHODS`, and `frozen_KIND` for a kind of side network. The store has the backbone's name.

    Raises:
        UserError: as for `train`, and if the backbone is missing or is not the store's.
    """
    from read_cache.methods.run import LiveSetup, live_methods

    return _run(LiveSetup, live_methods(), store, out, recipe, callbacks, watch, texts, settings)


def _run(
    make_setup: Callable[[StoreFolder], Setup],
    kinds: Kinds,
    store: Stores,
    out: str | Path | None,
    recipe: str | Path | Recipe | None,
    callbacks: Callbacks,
    watch: Watch,
    texts: Sequence[str],
    settings: Mapping[str, Any],
) -> Results:
    """Train the networks of a recipe on every store."""
    recipe, place = read_recipe(recipe, kinds, texts, settings)
    stores = [store] if isinstance(store, str | Path | StoreReader) else list(store)
    if not stores:
        raise UserError("there is no store to train on: give at least one")
    paths = [each.folder.path if isinstance(each, StoreReader) else str(each) for each in stores]
    folders = find_all(paths, watch.say)
    out = Path(out) if out is not None else default_out(paths[0])
    manifests = [folder.read_manifest() for folder in folders]
    recipe.check_tasks([manifest.task.name for manifest in manifests])
    setups = [make_setup(folder) for folder in folders]
    sweeps = [recipe.sweep(manifest.task.name) for manifest in manifests]
    for setup, sweep, manifest in zip(setups, sweeps, manifests, strict=True):
        setup.check(sweep.networks(), manifest)  # all of them, before the first trains for days
    results: list[Result] = []
    finals: list[list[Result]] = []
    with reporting(callbacks, out, watch) as watch:
        for setup, sweep in zip(setups, sweeps, strict=True):
            trained, final = run_sweep(setup, sweep, out, place, watch)
            if trained and trained[-1].readings:
                watch.say(summary(parse(Readings, trained[-1].readings, "readings")))
            results += trained
            finals += [final] if final else []
    return Results(results, finals)


def read_recipe(
    recipe: str | Path | Recipe | None, kinds: Kinds, texts: Sequence[str], settings: Mapping[str, Any]
) -> tuple[Recipe, Place]:
    """Return a recipe whose settings are replaced by the given ones, and the settings of the machine.

    Arguments and errors are those of `train`. `kinds` are the settings classes by kind of network.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(str(recipe), kinds) if recipe else Recipe(kinds=kinds)
    placed, fields = {}, fields_of(Place)
    for table, text in ((settings, False), (split_texts(texts), True)):
        named = {full_name(name): value for name, value in table.items()}
        for name in [name for name in named if name in fields]:
            placed[name] = check_value(name, named.pop(name), fields, "settings", text)
        recipe = recipe.override(named, text)
    return recipe, Place(**placed)


def full_name(name: str) -> str:
    """Return a setting's name for a short one: `learning_rate` for `lr`, `read.learning_rate` for `read.lr`."""
    kind, dot, setting = name.rpartition(".")
    return f"{kind}{dot}{ALIASES.get(setting, setting)}"


def default_out(store: str, root: str = "runs") -> Path:
    """Return the default folder of a run on a store, or on a folder of stores: stores/a -> runs/a."""
    parts = Path(store).parts
    below = parts[parts.index("stores") + 1 :] if "stores" in parts else parts[-1:]
    return Path(root, *below)


def find_all(paths: Sequence[str], say: Callable[[str], None]) -> list[StoreFolder]:
    """Return every sealed store at or below the paths, once; call `say` for each unfinished one.

    Raises StoreError if a path holds no finished store.
    """
    folders: dict[str, StoreFolder] = {}
    for path in paths:
        sealed, unfinished = find_stores(path)
        for folder in unfinished:
            say(f"{folder.path} is left out: its extraction has not ended; run its extract command again to finish it")
        if not sealed:
            if unfinished[0].path == StoreFolder(path).path:
                unfinished[0].read_manifest()
            raise StoreError(f"no store in {path} is complete: finish those that were begun")
        folders |= {folder.path: folder for folder in sealed}
    return list(folders.values())
