"""`read-cache extract`: stage one."""

from typing import Annotated

import typer

from read_cache.allocator import keep_few_kernels
from read_cache.cli import stored
from read_cache.cli.output import print_json, progress_bar, say, size
from read_cache.extract.config import ExtractConfig, OnLong
from read_cache.meters.sessions import SessionFile
from read_cache.meters.summary import summary
from read_cache.store.lock import Worker, filling
from read_cache.store.manifest import StoreFolder


def extract(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="Hub name, local folder, or t5-tiny-wiki, which is bundled.")],
    task: Annotated[str, typer.Option(help="A GLUE task, a sample task, or a TOML file that describes one.")],
    store: Annotated[
        str | None,
        typer.Option(help="Where the store goes: a folder, or a URL such as s3://…", show_default="stores/MODEL/TASK"),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Folder of jsonl, csv or parquet files, or a hub's OWNER/NAME[/CONFIG][@REVISION].",
            show_default="the task's own",
        ),
    ] = None,
    dtype: stored.DtypeOption = ExtractConfig.dtype,
    compute_dtype: stored.ComputeDtypeOption = ExtractConfig.compute_dtype,
    attention: stored.AttentionOption = ExtractConfig.attention,
    attention_dtype: stored.AttentionDtypeOption = ExtractConfig.attention_dtype,
    rank: stored.RankOption = ExtractConfig.rank,
    layers: stored.LayersOption = ExtractConfig.layers,
    max_examples: stored.MaxExamplesOption = ExtractConfig.max_examples,
    max_source_length: stored.MaxSourceLengthOption = ExtractConfig.max_source_length,
    on_long: Annotated[OnLong, typer.Option(help="Longer sources are cut or refused.")] = ExtractConfig.on_long,
    seed: Annotated[int, typer.Option(help="Order of the examples in the store.")] = ExtractConfig.seed,
    part_tokens: stored.PartTokensOption = ExtractConfig.part_tokens,
    batch_tokens: stored.BatchTokensOption = ExtractConfig.batch_tokens,
    worker: Annotated[
        str, typer.Option(help="Share the work: 2/4 is worker 2 of 4 processes, on any machines.")
    ] = "1/1",
    revision: stored.RevisionOption = None,
    device: Annotated[str, typer.Option(help="Where the backbone runs: cpu, cuda, cuda:1 …")] = "cpu",
    p0: Annotated[
        float | None,
        typer.Option(help="Watts at full utilisation, for energy by Eq. 4.", show_default="the board's limit"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run the frozen backbone once over a task's rows and write every layer's states and attention into a store."""
    keep_few_kernels()
    config = stored.given_config(context)
    folder = run_extraction(model, task, store, dataset, config, revision, device, Worker.parse(worker), p0)
    if json:
        print_json({"store": folder.path, "manifest": f"{folder.path}/{StoreFolder.MANIFEST}"})


def run_extraction(
    model: str,
    task_name: str,
    store: str | None,
    dataset: str | None,
    config: ExtractConfig,
    revision: str | None = None,
    device: str = "cpu",
    worker: Worker | None = None,
    p0_watts: float | None = None,
) -> StoreFolder:
    """Plan, fill and seal with progress on stderr; goes on where an earlier run stopped. Readings go into the store."""
    worker = worker or Worker()
    from read_cache.backbones.t5 import Backbone
    from read_cache.extract.extraction import fill_store, open_store
    from read_cache.extract.plan import make_plan
    from read_cache.meters.stage import meter_stage
    from read_cache.store.reader import array_bytes
    from read_cache.tasks import find_task

    task = find_task(task_name)
    with meter_stage("extract", device, p0_watts) as meter:
        backbone = Backbone(model, config.computed_in, device, revision)
        folder = StoreFolder(store or stored.default_store(model, task.name))
        plan = make_plan(backbone, task, dataset, config)
        info = plan.manifest.splits
        sizes = ", ".join(f"{name} {split.examples:,}" for name, split in info.items())
        tokens = sum(split.tokens for split in info.values())
        total = size(sum(array_bytes(plan.manifest).values()))
        say(f"{task.name}: {sizes} examples; {tokens:,} tokens; {total} of activations for {folder.path}")
        if plan.truncated:
            say(f"{plan.truncated} sources are longer than {config.max_source_length} tokens and are cut")
        with filling(folder, worker):
            writer = open_store(folder, plan, backbone, worker)
            if writer is None:
                say(f"{folder.path} is complete already")
                return folder
            missing = writer.missing_parts()
            parts = sum(split.parts for split in info.values())
            if len(missing) < parts:
                say(f"going on: {parts - len(missing)} of {parts} parts are done")
            with progress_bar() as bar, SessionFile(folder.files, meter) as session:
                layouts = {name: split.layout for name, split in plan.splits.items()}
                left = sum(int(layouts[name].length[layouts[name].examples(part)].sum()) for name, part in missing)
                row = bar.add_task(f"{model} on {task.name}", total=left)

                def after_part(tokens: int) -> None:
                    bar.advance(row, tokens)
                    session.keep_if_due()

                fill_store(writer, plan, backbone, after_part, worker)
    say(f"sealed {folder.path}")
    say(summary(meter.read()))
    return folder
