"""`read_cache.extract`: stage one."""

import json
import uuid
from pathlib import Path
from typing import Any

from read_cache.backbones import open_backbone
from read_cache.config import ExtractConfig, ExtractPlace
from read_cache.device import check_device
from read_cache.engines import open_engine
from read_cache.errors import UserError
from read_cache.extraction.fill import fill_store, open_store, tokens_of
from read_cache.extraction.plan import make_plan
from read_cache.extraction.side_init import check_side_init, side_init
from read_cache.meters.meter import meter_stage
from read_cache.meters.readings import keep_readings, summary
from read_cache.settings import read_settings
from read_cache.store.folder import StoreFolder, side_init_file
from read_cache.store.lock import Worker, filling
from read_cache.store.reader import StoreReader, array_bytes
from read_cache.tasks import Task, find_task
from read_cache.watch import Watch


def extract(
    model: str,
    task: str,
    store: str | Path | None = None,
    *,
    dataset: str | Path | None = None,
    watch: Watch = Watch(),
    **settings: Any,
) -> StoreReader:
    """Run a frozen backbone once over a task's rows and write its activations into a store.

    Returns the sealed store. A sealed store is left as it is; an unfinished one is continued.

    Args:
        model: a bundled or packaged model, a local folder, or a model of the hub.
        task: a name in `read_cache.tasks.TASKS`, or a TOML file that describes a task.
        store: a folder or URL; by default stores/MODEL/TASK.
        dataset: a folder of jsonl, csv or parquet files, or a dataset of the hub; by default the task's own.
        watch: functions to call.
        settings: fields of `read_cache.config.ExtractConfig` and `ExtractPlace`.

    Raises:
        UserError: bad input, a store with other settings in that folder, a full disk.
    """
    config, place = read_settings(settings, ExtractConfig, ExtractPlace)
    described, worker, engine = find_task(task), Worker.parse(place.worker), open_engine(place)
    check_device(place.device)
    folder = StoreFolder(default_store(model, described) if store is None else store)
    if folder.files.on_hub:
        raise UserError(f"{folder.path} would get a commit for each file: extract into a folder, and `push` the store")
    with meter_stage("extract", place.device, place.p0) as meter:
        backbone = open_backbone(model, config.computed_in, place.device, place.revision)
        check_side_init(backbone, config)
        plan = make_plan(backbone, described, None if dataset is None else str(dataset), config)
        splits, total = plan.manifest.splits, sum(array_bytes(plan.manifest).values())
        sizes = ", ".join(f"{name} {split.examples:,}" for name, split in splits.items())
        tokens = sum(split.tokens for split in splits.values())
        watch.say(f"{described.name}: {sizes} examples; {tokens:,} tokens; {total / 1e6:,.1f} MB for {folder.path}")
        if plan.truncated:
            watch.say(f"{plan.truncated} texts are longer than {config.max_source_length} tokens and are cut")
        with filling(folder, worker):
            writer = open_store(folder, plan, backbone, worker, watch.say)
            if writer is None:
                watch.say(f"{folder.path} is complete already")
            else:
                missing, parts = writer.missing_parts(), sum(split.parts for split in splits.values())
                if len(missing) < parts:
                    watch.say(f"continuing: {parts - len(missing)} of {parts} parts are done")
                left = tokens_of(plan, missing)
                done, session = 0, uuid.uuid4().hex

                def after_part(tokens: int) -> None:
                    nonlocal done
                    done += tokens
                    watch.progress(f"{Path(model).name} on {described.name}", done, left)
                    keep_readings(folder.files, session, meter.read())

                try:
                    fill_store(writer, plan, backbone, after_part, worker, engine)
                finally:
                    keep_readings(folder.files, session, meter.read())
    if writer is not None:
        watch.say(f"sealed {folder.path}")
        watch.say(summary(meter.read()))
    name = side_init_file(str(config.side_init), config.side_reduction)
    if config.side_init is not None and worker.number == 1 and not folder.files.exists(name):
        with meter_stage("side_init", place.device, place.p0) as meter:
            backbone = open_backbone(model, "fp32", place.device, place.revision)
            weights = side_init(backbone, plan, config)
        folder.files.write(f"{name}.json", json.dumps(meter.read().values()).encode())
        folder.files.write(name, weights)  # last: its existence means that both are complete
        watch.say(f"{name} is in {folder.path}")
        watch.say(summary(meter.read()))
    return StoreReader(folder)


def default_store(model: str, task: Task) -> str:
    """Return the folder of a store for which none is given: stores/MODEL/TASK."""
    return f"stores/{Path(model).name or 'model'}/{task.name}"
