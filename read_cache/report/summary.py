"""The chosen network of a store: why it was chosen, what it is better than, what it costs, and how it is used."""

import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from rich.filesize import decimal

from read_cache.report.costs import QUANTITIES, digits, total
from read_cache.report.frames import spread

ENERGIES = [name for name in QUANTITIES if "energy" in name]


def choice(
    networks: pd.DataFrame,
    configurations: pd.DataFrame,
    sessions: pd.DataFrame,
    baselines: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Return the chosen configuration of one store, `facts` about it, and `scores` beside it, as text.

    The frames have the rows of that store alone, at least one network of which ended an epoch. `configurations` are in
    the order of `frames.configuration_frame`; `baselines` are metrics by name and split.
    """
    kinds = configurations[configurations["seeds"] > 0].drop_duplicates("kind")
    best = next(kinds.itertuples())
    imported = not best.parameters_percent  # no backbone is known, so no row can be predicted
    names = ["network", "configuration", "label"]  # settings of the run are in the label alone
    result = networks.set_index(names).loc[[tuple(getattr(best, name) for name in names)], "result"].iloc[0]
    split = "validation" if pd.isna(best.test) else "test"
    known = {name: scores[split] for name, scores in baselines.items() if split in scores}
    scores = [(row.kind, getattr(row, split), getattr(row, f"{split}_deviation")) for row in kinds.itertuples()]
    scores += [(f"baseline: {name}", score, np.nan) for name, score in known.items()]
    scores.sort(key=lambda row: -np.nan_to_num(row[1], nan=-np.inf))
    margins = [f"{getattr(best, split) - score:+.2f} against the {name}" for name, score in known.items()]
    rivals = kinds if len(kinds) > 1 else configurations[configurations["seeds"] > 0]
    verb = ["evaluate", "--store", result.store] if imported else ["predict", "--model", result.backbone]
    facts = {
        "chosen": f"best mean validation metric of {counted(len(configurations), 'configuration')} "
        f"({counted(len(networks), 'network')}), among those with the most seeds",
        "second best": second_best(best, rivals.iloc[1:]),
        "baselines": f"{', '.join(margins)} ({split})" if margins else "not known",
        "time": times(sessions, len(networks)),
        "energy": energy(sessions),
        "size": f"{decimal(best.weight_bytes)} in float32: {counted(best.parameters, 'weight')}, "
        + ("the backbone's are unknown" if imported else f"{best.parameters_percent:.2f}% of the backbone"),
        "reads": None if pd.isna(best.row_bytes) else f"{decimal(round(best.row_bytes))} of the store a row",
    }
    return {
        "best": best,
        "metric": f"{split} {result.metric.replace('_', ' ')}",
        "score": spread(getattr(best, split), getattr(best, f"{split}_deviation")),
        "validation": spread(best.validation, best.validation_deviation),
        "seeds": counted(best.seeds, "seed"),
        "facts": {name: text for name, text in facts.items() if text},
        "scores": [(kind, spread(mean, deviation), np.clip(mean, 0, 100)) for kind, mean, deviation in scores],
        "imported": imported,
        "command": shlex.join(["read-cache", *verb, "--network", result.folder]),
    }


def second_best(best: Any, others: pd.DataFrame) -> str | None:
    """Return by how much the best of some configurations is behind `best` on validation; None if there are none."""
    if others.empty:
        return None
    other = next(others.sort_values("validation", ascending=False, kind="stable").itertuples())
    margin = best.validation - other.validation
    text = f"{other.label}, {abs(margin):.2f} {'lower' if margin >= 0 else 'higher'} on validation"
    if other.seeds < best.seeds:
        return f"{text}, over {counted(other.seeds, 'seed')}"
    noise = np.nanmax([best.validation_deviation, other.validation_deviation, 0])
    return f"{text}, less than the deviation over seeds" if abs(margin) < noise else text


def times(sessions: pd.DataFrame, networks: int) -> str:
    """Return the seconds of the extraction and of the training of all networks, as far as they were measured."""
    names = {"extraction": "extraction", "training": f"training {counted(networks, 'network')}"}
    seconds = {name: total(sessions[sessions["stage"] == stage])["time, s"] for stage, name in names.items()}
    return ", ".join(f"{digits(value)} s for {name}" for name, value in seconds.items() if value > 0) or "not measured"


def energy(sessions: pd.DataFrame) -> str:
    """Return the energies of both stages that were measured, in kWh, or why there are none."""
    used = sessions[sessions["networks"] > 0]
    measured = total(used)[ENERGIES].dropna()
    texts = [
        f"{digits(value)} kWh ({name.removesuffix(' energy, kWh').removesuffix(', kWh')})"
        for name, value in measured.items()
    ]
    reasons = dict.fromkeys(why for missing in used["missing"] for name, why in missing.items() if name in ENERGIES)
    return ", ".join(texts) or ", ".join(reasons) or "not measured"


def counted(count: int, name: str) -> str:
    """Return "1 seed" or "1,200 seeds"."""
    return f"{count:,} {name}{'' if count == 1 else 's'}"
