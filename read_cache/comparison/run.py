"""`read_cache.compare`: train the networks without a result, measure one step of each method, and write one table."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from read_cache.api.training import default_out, read_recipe
from read_cache.comparison.table import Comparison, Method, method_record
from read_cache.config import Place, SearchConfig
from read_cache.device import enough_memory
from read_cache.errors import UserError
from read_cache.meters.machine import machine_facts
from read_cache.methods.run import LiveSetup, live_methods, store_backbone
from read_cache.networks.base import NETWORKS
from read_cache.networks.saved import write_text
from read_cache.scoring.evaluator import baselines
from read_cache.store.manifest import Manifest
from read_cache.store.reader import StoreReader
from read_cache.training.callbacks import Callbacks, reporting
from read_cache.training.from_store import FromStore
from read_cache.training.network_config import NetworkConfig
from read_cache.training.recipe import OWN, Recipe, Sweep, side_networks
from read_cache.training.results import Result, best_result, read_results
from read_cache.training.run import Setup, check_halving, networks_folder, run_sweep
from read_cache.training.step_cost import StepCost, measure_step
from read_cache.watch import Watch


def compare(
    store: str | Path | StoreReader,
    out: str | Path | None = None,
    *,
    recipe: str | Path | Recipe | None = None,
    callbacks: Callbacks = (),
    watch: Watch = Watch(),
    texts: Sequence[str] = (),
    **settings: Any,
) -> Comparison:
    """Compare side networks and live methods on one store's rows, and write the comparison to `out`.

    All methods train on the same rows in the same order, with the same batch size, schedule, scoring and seeds;
    settings of one method may change its batch size and schedule. Each keeps the weights of its best epoch by
    validation, and trains apart from the others, so that its costs are its own. If a method has several configurations,
    such as learning rates, all train with the first seed, and the best by validation also trains with the other seeds.
    Finished work is skipped, and an interrupted comparison continues.

    Args:
        store: a sealed store, or its path.
        out: folder for networks, results.jsonl and compare.json, .csv and .md; by default comparisons/ with the store's
            path below stores/.
        recipe: a TOML file, or a bundled recipe by name.
        callbacks: as for `train`.
        watch: functions to call.
        texts: further settings as text, such as "read.hidden=64,128".
        settings: `method` (kinds of `NETWORKS` and `METHODS`), and settings as `train` and `finetune` take them,
            such as `{"read.lr": 0.001}` for one method.

    Raises:
        UserError: bad settings, a method that cannot be trained on the store, a method whose networks all diverged.
    """
    reader = store if isinstance(store, StoreReader) else StoreReader(store)
    folder, manifest = reader.folder, reader.manifest
    read, place = read_comparison(recipe, texts, settings)
    sweep = read.sweep(manifest.task.name, apart=True)
    out = Path(out) if out is not None else default_out(folder.path, "comparisons")
    setups: dict[str, Setup] = {}
    sweeps = {kind: sweep_of(kind, sweep) for kind in dict.fromkeys(sweep.choices["kind"])}
    for kind, own in sweeps.items():
        setups[kind] = FromStore(folder) if kind in NETWORKS else LiveSetup(folder)
        setups[kind].check(own.networks(), manifest)
        check_halving(setups[kind], own.run)
    methods = []
    with reporting(callbacks, out, watch) as watch:
        for kind, own in sweeps.items():
            tried, final = run_sweep(setups[kind], own, out, place, watch)
            chosen = final or [result for result in tried if result.configuration == best_result(tried).configuration]
            step = step_cost(setups[kind], own, best_result(chosen), networks_folder(out, manifest), place)
            methods.append(Method(kind, setups[kind].cached, tried, chosen, step))
    results, untied = read_results(out, manifest.identity), untied_parameters(manifest)
    records: list[dict[str, Any]] = [{"method": name} | scores for name, scores in baselines(reader).items()]
    records += [method_record(method, results, manifest, untied) for method in methods]
    facts = {"model": manifest.backbone.name, "task": manifest.task.name, "metric": manifest.task.metric}
    facts |= {"store": folder.path, "identity": manifest.identity, "device": place.device}
    comparison = Comparison(records, facts | {"run": sweep.run.values(), "machine": machine_facts()})
    comparison.write(out)
    return comparison


def read_comparison(
    recipe: str | Path | Recipe | None, texts: Sequence[str], settings: Mapping[str, Any]
) -> tuple[Recipe, Place]:
    """Return what to train, and where. Arguments and errors are those of `compare`."""
    return read_recipe(recipe, {**side_networks(), **live_methods()}, texts, settings)


def sweep_of(kind: str, sweep: Sweep) -> Sweep:
    """Return the sweep of one kind: all configurations train with the first seed, the best of them with every seed."""
    others = sweep.kinds.keys() - {kind}
    fields = [*sweep.kinds[kind].model_fields, *OWN]
    own_names = [name for name in sweep.choices if name in fields or ("." in name and name.split(".")[0] not in others)]
    choices = {name: sweep.choices[name] for name in own_names} | {"kind": [kind]}
    own = dataclasses.replace(sweep, choices=choices, run=sweep.runs.get(kind, sweep.run))
    seeds = own.choices["seed"]
    if len(seeds) == 1 or len({network.configuration for network in own.networks()}) == 1:
        return own
    return dataclasses.replace(
        own, choices=own.choices | {"seed": seeds[:1]}, search=SearchConfig(final_seeds=tuple(seeds))
    )


def step_cost(setup: Setup, sweep: Sweep, result: Result, folder: Path, place: Place) -> StepCost:
    """Return the costs of one step of a trained network, from the file of an earlier call or measured now."""
    path = folder / f"{result.network}.step.json"  # beside the network's folder
    if path.exists():
        with contextlib.suppress(ValueError, UserError):
            cost = StepCost(**json.loads(path.read_text(encoding="utf-8")))
            if cost.device == torch.device(place.device).type:
                return cost
    network = NetworkConfig(**{name: getattr(result, name) for name in ("kind", "learning_rate", "seed")},
        settings=sweep.kinds[result.kind](**result.config), head=result.head)  # fmt: skip
    with enough_memory("lower batch_size"):
        cost = measure_step(setup.prepare([network], sweep.run, place), sweep.run.order_seed)
    write_text(path, json.dumps(cost.values()) + "\n")
    return cost


def untied_parameters(manifest: Manifest) -> int | None:
    """Return the backbone's parameters with a tied LM head counted apart, or None if its files are missing."""
    spec = manifest.backbone
    try:
        config = store_backbone(manifest).config
    except UserError:
        return None
    tied = spec.language_model and getattr(config, "tie_word_embeddings", False)
    return spec.parameters + tied * config.vocab_size * spec.width
