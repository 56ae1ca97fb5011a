"""Size and time of both stages, measured / forecast by `read-cache plan`."""

import shutil
import time
from typing import Any

from read_cache.api.extraction import extract
from read_cache.api.training import train
from read_cache.bench.case import Case
from read_cache.bench.measure import Result, Seconds, ratio
from read_cache.config import ExtractConfig, ExtractPlace, Place
from read_cache.planning import forecast
from read_cache.store.folder import StoreFolder
from read_cache.store.reader import array_bytes
from read_cache.training.recipe import Recipe

TARGETS = {"megabytes": "1", "extraction": "0.85 to 1.15", "training": "0.85 to 1.15"}
RUN: dict[str, Any] = {"epochs": 3, "patience": 3, "cell": "rnn"}


def bench_plan(case: Case) -> Result:
    """The bench's rows and READ RNN-128: planned, and measured while the commands' own functions run, once each."""
    model, config, folder = str(case.model), case.config, case.folder / "planned"
    settings: dict[str, Any] = {"max_examples": config.rows}
    planned = forecast(
        model,
        config.task,
        dataset=config.dataset,
        extract=ExtractConfig(**settings),
        place=ExtractPlace(),
        recipe=Recipe().override(RUN),
        training_place=Place(),
    )
    clocks = [time.perf_counter()]
    store = extract(model, config.task, folder / "store", dataset=config.dataset, **settings)
    clocks.append(time.perf_counter())
    train(store, folder / "run", **RUN)
    clocks.append(time.perf_counter())
    sizes, files = array_bytes(planned.manifest), store.folder.files.sizes(StoreFolder.ARRAYS)
    written = sum(size for path, size in files.items() if any(f"/{name}/c/" in path for name in sizes))
    shutil.rmtree(folder)
    pairs = {"megabytes": (sum(sizes.values()) / 1e6, written / 1e6)}
    for number, stage in enumerate(("extraction", "training")):
        pairs[stage] = planned.stages[stage][stage], clocks[number + 1] - clocks[number]
    seconds = Seconds()
    for quantity, values in pairs.items():
        seconds |= {f"{quantity}, {how}": [value] for how, value in zip(("planned", "measured"), values, strict=True)}
    ratios = [ratio(seconds, f"{name}, measured", f"{name}, planned", target) for name, target in TARGETS.items()]
    return Result({"rows": config.rows, "epochs": RUN["epochs"]}, seconds, ratios)
