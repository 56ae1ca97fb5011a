"""Rows of the report's tables, and the same as JSON."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from read_cache.networks.config import ReadConfig
from read_cache.report.aggregate import Configuration, Spread, StoreResults, average_test, best_first
from read_cache.report.measured import measured
from read_cache.train.results import Result, run_settings

Rows = list[tuple[Any, ...]]

SUMMARY = ("task", "chosen configuration", "seeds", "validation", "test", "parameters", "% of backbone")
CONFIGURATIONS = ("configuration", "seeds", "validation", "best seed", "parameters", "% of backbone")
STOPPED = ("network", "epochs finished", "why it stopped")
ALL_EPOCHS = "all epochs done"
PATIENCE = "no better validation metric"
LISTED = 8
"""Of a setting with more values, only the range is told."""


def summary_rows(stores: Sequence[StoreResults]) -> Rows:
    """What was chosen for each task, and the average over tasks where there are several and `average_test` has one."""
    rows: Rows = []
    for store in stores:
        if chosen := store.chosen:
            rows.append((store.title, chosen.label, chosen.seeds, chosen.validation, chosen.test, *_size(chosen)))
        else:
            rows.append((store.title, "none: no network finished an epoch", 0, None, None, None, None))
    average = average_test(stores)
    if len(stores) > 1 and average is not None:
        rows.append((f"average of {len(stores)} tasks", "", None, None, average, None, None))
    return rows


def configuration_rows(store: StoreResults) -> Rows:
    """Every configuration, best first, by validation alone."""
    return [
        (c.label, c.seeds, c.validation, best_first(c.results)[0]["validation"], *_size(c))
        for c in store.configurations
    ]


def _size(configuration: Configuration) -> tuple[int, float]:
    first = configuration.results[0]
    return first["parameters"], first["parameters_percent"]


def stop_counts(store: StoreResults) -> tuple[int, int, int]:
    """Networks that ran all epochs, that stopped early by patience, and that stopped for another reason."""
    done = sum(result["stopped"] == ALL_EPOCHS for result in store.results)
    patient = sum(result["stopped"].startswith(PATIENCE) for result in store.results)
    return done, patient, len(stopped_rows(store))


def stopped_rows(store: StoreResults) -> Rows:
    """Networks that stopped for another reason than epochs or patience, such as a loss that became NaN."""
    return [
        (result["network"], len(result["history"]), result["stopped"])
        for result in store.results
        if result["stopped"] != ALL_EPOCHS and not result["stopped"].startswith(PATIENCE)
    ]


def setting_rows(results: Sequence[Result]) -> Rows:
    """Every setting with the values it took."""
    rows: dict[str, list[Any]] = {}
    for result in results:
        own = {"learning rate": result["learning_rate"], "seed": result["seed"]}
        read = dataclasses.asdict(ReadConfig()) | result["read"]  # an older one lacks what came later
        for name, value in (read | own | run_settings(result)).items():
            values = rows.setdefault(name.replace("_", " "), [])
            if value not in values:
                values.append(value)
    return [(name, _values(values)) for name, values in rows.items()]


def _values(values: list[Any]) -> str:
    if len(values) > LISTED and all(isinstance(value, int | float) for value in values):
        return f"{len(values)} values from {min(values):g} to {max(values):g}"
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def report_json(stores: Sequence[StoreResults], unfinished: Sequence[str]) -> dict[str, Any]:
    """All tables of the report; a number that is missing or not finite is null."""
    return {
        "average_test": average_test(stores),
        "tasks": [
            {
                "task": store.task,
                "store": store.store,
                "store_digest": store.digest,
                "metric": store.metric,
                "networks": len(store.results),
                "chosen": _configuration_json(store.chosen) if store.chosen else None,
                "better_with_fewer_seeds": store.passed_over.label if store.passed_over else None,
                "configurations": [
                    {"configuration": c.label, "validation": _spread_json(c.validation)} for c in store.configurations
                ],
                "stopped": _objects(("network", "epochs", "stopped"), stopped_rows(store)),
                "measured": dict(measured(store.results)),
            }
            for store in stores
        ],
        "unfinished": list(unfinished),
    }


def _configuration_json(configuration: Configuration) -> dict[str, Any]:
    parameters, percent = _size(configuration)
    return {
        "configuration": configuration.label,
        "learning_rate": configuration.learning_rate,
        "networks": [result["folder"] for result in configuration.results],
        "validation": _spread_json(configuration.validation),
        "test": _spread_json(configuration.test),
        "test_details": {name: _spread_json(value) for name, value in configuration.test_details.items()},
        "parameters": parameters,
        "parameters_percent": percent,
    }


def _spread_json(value: Spread | None) -> dict[str, Any] | None:
    return dataclasses.asdict(value) if value else None


def _objects(names: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> list[dict[str, Any]]:
    return [dict(zip(names, row, strict=True)) for row in rows]
