"""What `read-cache plan` says against what then happens, on three settings that differ in shape, dtype and network."""

import dataclasses
import json
import shutil
import subprocess
import sys
from typing import Any

from read_cache.bench.case import Case, ShapeName
from read_cache.bench.measure import Facts, Result
from read_cache.bench.stages import Stage, measure_stage
from read_cache.data import BUNDLED_BACKBONE
from read_cache.extract.config import ExtractConfig
from read_cache.planning.memory import part_bytes
from read_cache.planning.models import describe_model
from read_cache.planning.rows import plan_manifest, plan_rows

PLAN = "from read_cache.cli import main; main()"
STREAMED_PARTS = 8
"""Two windows: what a split that is streamed needs memory for."""
BYTES, TIMES = "0.9 to 1.1", "0.75 to 1.25"


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is planned and then done."""

    shape: ShapeName | None
    """With random weights; None is the bundled backbone."""
    form: dict[str, str]
    cell: str
    networks: int
    streamed: bool
    rows_times: int
    """So many times the case's rows."""

    @property
    def name(self) -> str:
        """For people."""
        form = " ".join(self.form.values())
        held = "streamed" if self.streamed else "in memory"
        return f"{self.shape or BUNDLED_BACKBONE} {form}, {self.networks} {self.cell}-128, {held}"


SETTINGS = (
    Setting("t5-base", {"dtype": "bf16"}, "rnn", 1, True, 3),
    Setting("t5-small", {"dtype": "int8", "attention_dtype": "uint8"}, "gru", 2, False, 2),
    Setting(None, {"dtype": "fp32"}, "lstm", 1, True, 4),
)


def bench_plan(case: Case) -> Result:
    """Bytes, seconds and peak memory, planned by the command after a fresh calibration, then measured."""
    table: list[Facts] = []
    for setting in SETTINGS:
        found = compare(case, setting)
        for quantity, (planned, measured) in found.items():
            row: Facts = {"setting": setting.name, "quantity": quantity, "planned": planned, "measured": measured}
            target = "" if quantity.startswith("peak") else BYTES if quantity.endswith("megabytes") else TIMES
            table.append(row | {"measured / planned": measured / planned, "target": target})
    return Result("plan", {"rows": case.config.rows}, table=tuple(table))


def compare(case: Case, setting: Setting) -> dict[str, tuple[float, float]]:
    """(planned, measured) by quantity."""
    folder = case.folder / "planned"
    folder.mkdir()
    model = BUNDLED_BACKBONE
    if setting.shape is not None:
        made = Case(dataclasses.replace(case.config, shape=setting.shape), folder)
        _ = made.backbone  # writes the weights
        model = str(made.model_folder)
    rows = max(1, case.config.rows * setting.rows_times // 3)
    # of the default size a part would hold all the rows of a short run, and none could be streamed
    settings = {**setting.form, "max_examples": rows, "part_tokens": min(ExtractConfig.part_tokens, max(64, 5 * rows))}
    memory = _memory(case, model, ExtractConfig(**settings)) if setting.streamed else 100.0  # type: ignore[arg-type]
    dataset = case.config.dataset
    stage = Stage(
        model, case.config.task, dataset, str(folder / "store"), settings, setting.cell, setting.networks, memory
    )
    planned = plan(stage)
    stages = {name: measure_stage(name, stage) for name in ("extract", "train", "live")}
    on_disk = sum(path.stat().st_size for path in (folder / "store").rglob("*") if path.is_file())
    seconds, peaks = planned["seconds"], planned["peak_bytes"]
    shutil.rmtree(folder)
    return {
        "megabytes": (planned["bytes"]["together"] / 1e6, on_disk / 1e6),
        "extraction seconds": (seconds["extraction"], stages["extract"]["seconds"]),
        "epoch seconds, store": (seconds["epoch"][planned["tier"]], stages["train"]["seconds"]),
        "epoch seconds, live": (seconds["epoch"]["live"], stages["live"]["seconds"]),
        "peak megabytes, extraction": (peaks["extraction"]["host"] / 1e6, stages["extract"]["peak_bytes"] / 1e6),
        "peak megabytes, training": (peaks["training"]["host"] / 1e6, stages["train"]["peak_bytes"] / 1e6),
    }


def plan(stage: Stage) -> dict[str, Any]:
    """What the command says, measuring the machine again."""
    options: dict[str, Any] = {"model": stage.model, "task": stage.task, "store": stage.store, **stage.extract}
    options |= {"cell": stage.cell, "networks": stage.networks, "memory": stage.memory}
    if stage.dataset is not None:
        options["dataset"] = stage.dataset
    words = [str(word) for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    command = [sys.executable, "-c", PLAN, "plan", "--recalibrate", "--json", *words]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def _memory(case: Case, model: str, config: ExtractConfig) -> float:
    """GB that hold two windows of parts and, where there are more parts, no whole split."""
    described = describe_model(model)
    rows = plan_rows(case.task, case.config.dataset, described, config)
    manifest = plan_manifest(case.task, case.config.dataset, described, rows, config)
    return 1.01 * STREAMED_PARTS * max(part_bytes(manifest, split) for split in manifest.splits) / 1e9
