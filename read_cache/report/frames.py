"""Results as data frames: configurations, the choice on validation, mean and deviation over seeds.

The protocol: of the configurations of a kind on a store (everything but the seed), the one with the best mean
validation metric is chosen, among those with the most seeds. The test metric is reported for it alone.
"""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path

import numpy as np
import pandas as pd

from read_cache.config import RunConfig
from read_cache.errors import UserError
from read_cache.training.results import Result, read_results

Baselines = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Metric, times 100, by identity of the store, name of the baseline and split."""
METHOD = ["backbone", "kind"]
GROUP = ["identity", *METHOD]
CONFIGURATION = [*GROUP, "configuration", "label"]
DEFAULTS = RunConfig().values()


def read_runs(folders: Sequence[Path]) -> list[Result]:
    """Return the results in run folders. Raises UserError for a folder that is absent or has no results."""
    results: list[Result] = []
    for folder in folders:
        in_folder = read_results(folder) if folder.is_dir() else []
        if not in_folder:
            begun = f" ({', '.join(names)} in training)" if (names := unfinished(folder)) else ""
            raise UserError(f"{folder} holds no results{begun}: expected the folder of a run whose training has ended")
        results += in_folder
    if not results:
        raise UserError("there is no run: give at least one folder that training wrote its results to")
    return results


def unfinished(folder: Path) -> list[str]:
    """Return the subfolders of a run with a checkpoint: their networks are in training, or were interrupted."""
    return sorted({path.parent.name for path in folder.glob("*/checkpoint*.safetensors")})


def network_frame(results: Sequence[Result]) -> pd.DataFrame:
    """Return one row a network. Of two results of one network the later counts.

    Its columns are fields of Result, and `result`; `label`: the network's label, and settings of the run that are not
    the defaults; `title`: the task, with the store if a backbone has several stores of the task; `weight_bytes`;
    `row_bytes`, which the stores tell (`page.read_bytes`).
    """
    fields = [name for name in Result.model_fields if name not in ("config", "head", "run", "history")]
    frame = pd.DataFrame([{name: getattr(result, name) for name in fields} for result in results])
    frame["result"] = list(results)
    untied = frame["result"].map(lambda result: result.config.get("recurrent") is False)
    frame["kind"] = frame["kind"].mask(untied, frame["kind"] + " (untied)")  # as in the paper's Table 2
    for score in ("validation", "test"):
        frame[score] = frame[score].astype(float).replace([np.inf, -np.inf], np.nan)
    frame["label"] = frame["result"].map(full_label)
    frame["weight_bytes"] = frame["parameters"] * 4  # float32
    frame["row_bytes"] = np.nan
    frame = frame.drop_duplicates([*CONFIGURATION, "seed"], keep="last")
    stores = frame.groupby(["task", "backbone"])["identity"].transform("nunique")
    place = frame["task"] + " (" + frame["store"] + ", " + frame["identity"].str[:8] + ")"
    frame["title"] = frame["task"].where(stores == 1, place)
    frame["place"] = pd.factorize(frame["title"])[0]
    return frame.reset_index(drop=True)


def full_label(result: Result) -> str:
    """Return a network's label, and settings of the run that are not the defaults.

    `halving` is left out: it stops networks and changes none.
    """
    values = {name: value for name, value in result.run.items() if name != "halving" and value != DEFAULTS.get(name)}
    return ", ".join([result.label or result.network, *(f"{name}={value}" for name, value in values.items())])


def best_first(networks: pd.DataFrame) -> pd.DataFrame:
    """Return networks in the order of `Results.best`: by validation metric, of equal ones by validation loss."""
    return networks.sort_values("result", key=lambda own: own.map(attrgetter("score")), ascending=False, kind="stable")


def configuration_frame(networks: pd.DataFrame) -> pd.DataFrame:
    """Return one row a configuration, by store, then by number of seeds and mean validation metric, the best first.

    `seeds` is the number of networks with a validation metric; deviations are those of a sample (divided by n - 1);
    `network` is the best network, `parts` the means of the parts of the test metric.
    """
    ordered = best_first(networks)
    same = ("place", "title", "task", "learning_rate", "parameters", "parameters_percent", "weight_bytes", "row_bytes")
    frame = ordered.groupby(CONFIGURATION, sort=False, as_index=False).agg(
        **{name: (name, "first") for name in (*same, "network")},
        networks=("seed", "size"),
        seeds=("validation", "count"),
        validation=("validation", "mean"),
        validation_deviation=("validation", "std"),
        best=("validation", "max"),
        test=("test", "mean"),
        test_deviation=("test", "std"),
        parts=("test_details", lambda details: pd.DataFrame(list(details)).mean().to_dict()),
    )
    columns, ascending = ["place", "seeds", "validation"], [True, False, False]
    return frame.sort_values(columns, ascending=ascending, kind="stable", ignore_index=True)


def chosen_frame(configurations: pd.DataFrame) -> pd.DataFrame:
    """Return the chosen configuration of each kind on each store; none for a kind whose networks ended no epoch.

    A configuration with fewer seeds is not compared: the best of many single seeds would win by luck.
    """
    return configurations[configurations["seeds"] > 0].drop_duplicates(GROUP)


def score_frame(networks: pd.DataFrame, chosen: pd.DataFrame, baselines: Baselines) -> pd.DataFrame:
    """Return test metrics: one row for each method and task, and one for its average over all tasks.

    Columns: backbone, kind, column (the task's title, or "average"), mean, deviation. A method has an average only
    if it has a test metric of every task. Baselines have the kind "baseline: NAME".
    """
    titles = list(dict.fromkeys(networks["title"]))
    averaged = len(titles) > 1 and set(titles) == set(networks["task"])
    rows = []
    tested = networks.merge(chosen[CONFIGURATION], on=CONFIGURATION).dropna(subset="test")
    for (*method, title), tests in tested.groupby([*METHOD, "title"], sort=False)["test"]:
        rows.append((*method, title, tests.mean(), tests.std()))
    for store in networks.drop_duplicates("identity").itertuples():
        for name, scores in baselines.get(store.identity, {}).items():
            if "test" in scores:
                rows.append((store.backbone, f"baseline: {name}", store.title, scores["test"], np.nan))
    frame = pd.DataFrame(rows, columns=[*METHOD, "column", "mean", "deviation"])
    complete = frame.groupby(METHOD, sort=False).filter(lambda scores: averaged and len(scores) == len(titles))
    averages = complete.groupby(METHOD, sort=False, as_index=False)["mean"].mean().assign(column="average")
    return pd.concat([frame, averages], ignore_index=True)


def spread(mean: float, deviation: float) -> str | None:
    """Return "72.00 ± 2.00", "72.00" without a deviation, or None without a mean."""
    if pd.isna(mean):
        return None
    return f"{mean:.2f}" if pd.isna(deviation) else f"{mean:.2f} ± {deviation:.2f}"


def shown(frame: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """Return columns of configurations under the names that people read; metrics with their deviation as text."""
    frame = frame.copy()
    for name in ("validation", "test"):
        texts = [spread(*pair) for pair in zip(frame[name], frame[f"{name}_deviation"], strict=True)]
        frame[name] = pd.Series(texts, index=frame.index, dtype=object)
    parts = [", ".join(f"{name} {mean:.2f}" for name, mean in means.items()) for means in frame["parts"]]
    frame["parts"] = pd.Series(parts, index=frame.index, dtype=object).where(frame["parts"].map(len) > 1, None)
    return frame[list(columns)].rename(columns=columns).dropna(axis="columns", how="all")


CHOSEN = {
    "title": "task", "backbone": "backbone", "kind": "kind", "label": "configuration", "seeds": "seeds",
    "validation": "validation", "test": "test", "parts": "test, by part", "parameters": "parameters",
    "parameters_percent": "% of backbone", "network": "best network",
}  # fmt: skip
EVERY = {
    "kind": "kind", "label": "configuration", "networks": "networks", "seeds": "seeds", "validation": "validation",
    "best": "best seed", "parameters": "parameters", "parameters_percent": "% of backbone",
}  # fmt: skip
