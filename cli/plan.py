"""`read-cache plan`: what a store and its training will take, before anything heavy runs."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from read_cache.cli import stored
from read_cache.cli.output import print_json, print_table, say, size
from read_cache.extract.config import ExtractConfig
from read_cache.networks.config import ReadConfig
from read_cache.train.grid import DEFAULT_MEMORY, TrainConfig

if TYPE_CHECKING:
    from read_cache.planning.estimate import Estimate, Training
    from read_cache.planning.machine import Kept
    from read_cache.planning.models import PlannedModel
    from read_cache.planning.recommend import Recommendation


def plan(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="Hub name, local folder, or t5-tiny-wiki. No weights are needed.")],
    task: Annotated[str, typer.Option(help="A GLUE task, a sample task, or a TOML file that describes one.")],
    store: Annotated[
        str | None, typer.Option(help="Where the store would go.", show_default="stores/MODEL/TASK")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Folder of rows, or a hub's OWNER/NAME, which is fetched.",
            show_default="the task's own; GLUE's lengths are estimated",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Of training.")] = TrainConfig.epochs,
    networks: Annotated[int, typer.Option(help="Trained in one run.")] = 1,
    cell: Annotated[str, typer.Option(help="rnn, gru or lstm.")] = ReadConfig.cell,
    hidden: Annotated[int, typer.Option(help="Width of the side network.")] = ReadConfig.hidden,
    batch_size: Annotated[int, typer.Option(help="Examples in a batch of training.")] = TrainConfig.batch_size,
    memory: Annotated[float, typer.Option(help="GB for parts of the store; what fits is kept.")] = DEFAULT_MEMORY,
    dtype: stored.DtypeOption = ExtractConfig.dtype,
    compute_dtype: stored.ComputeDtypeOption = ExtractConfig.compute_dtype,
    attention: stored.AttentionOption = ExtractConfig.attention,
    attention_dtype: stored.AttentionDtypeOption = ExtractConfig.attention_dtype,
    rank: stored.RankOption = ExtractConfig.rank,
    layers: stored.LayersOption = ExtractConfig.layers,
    max_examples: stored.MaxExamplesOption = ExtractConfig.max_examples,
    max_source_length: stored.MaxSourceLengthOption = ExtractConfig.max_source_length,
    part_tokens: stored.PartTokensOption = ExtractConfig.part_tokens,
    batch_tokens: stored.BatchTokensOption = ExtractConfig.batch_tokens,
    revision: stored.RevisionOption = None,
    device: Annotated[str, typer.Option(help="Where both stages would run: cpu, cuda, cuda:1 …")] = "cpu",
    recalibrate: Annotated[bool, typer.Option("--recalibrate", help="Measure this machine again.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Bytes, times and memory of a store and of training from it, before either is begun."""
    from read_cache.errors import UserError
    from read_cache.planning.estimate import Training, estimate
    from read_cache.planning.machine import Kept
    from read_cache.planning.models import describe_model
    from read_cache.planning.recommend import recommend
    from read_cache.tasks import find_task

    config = stored.given_config(context)
    if networks < 1:
        raise UserError(f"--networks is {networks}, expected at least 1")
    if not 0 < memory < float("inf"):
        raise UserError(f"--memory is {memory}, expected more than 0")
    read = ReadConfig(cell, hidden, attention=attention)  # type: ignore[arg-type]
    training = Training(read, TrainConfig(epochs=epochs, batch_size=batch_size), networks, memory)
    found_task, described = find_task(task), describe_model(model, revision)
    place = store or stored.default_store(model, found_task.name)
    kept = Kept(device, recalibrate, say)
    found = estimate(found_task, dataset, described, config, training, place, device, kept)
    planned = Planned(found, recommend(found, config), described, training, place, kept)
    if json:
        print_json(as_json(planned))
    else:
        print_plan(planned)


@dataclasses.dataclass(frozen=True)
class Planned:
    """Everything that the command tells."""

    found: "Estimate"
    advice: "Recommendation"
    model: "PlannedModel"
    training: "Training"
    store: str
    kept: "Kept"


def as_json(planned: Planned) -> dict[str, Any]:
    """Bytes, seconds and counts."""
    found, training = planned.found, planned.training
    manifest, epochs = found.manifest, training.run.epochs
    live = found.epoch_seconds["live"] or 0.0
    return {
        "model": {**dataclasses.asdict(manifest.backbone), "source": planned.model.source},
        "task": manifest.task.name,
        "rows": {"exact": found.rows.exact, "how": found.rows.how},
        "splits": {name: dataclasses.asdict(split) for name, split in manifest.splits.items()},
        "form": dataclasses.asdict(manifest.form),
        "bytes": {**found.bytes, "together": found.total_bytes},
        "disk": {"store": planned.store, "free_bytes": found.free_bytes, "holds": _holds(found)},
        "seconds": {"extraction": found.extraction_seconds, "epoch": found.epoch_seconds},
        "tier": found.tier,
        "run": {
            "networks": training.networks,
            "epochs": epochs,
            "seconds_with_store": found.extraction_seconds + epochs * found.cached_epoch,
            "seconds_live": epochs * live,
        },
        "pays_from_epoch": found.pays_from_epoch,
        "peak_bytes": found.peak_bytes,
        "recommended": dataclasses.asdict(planned.advice),
        "calibration": planned.kept.used,
    }


def print_plan(planned: Planned) -> None:
    """Tables for people."""
    found, advice = planned.found, planned.advice
    manifest, backbone = found.manifest, found.manifest.backbone
    say(
        f"{backbone.name}: {backbone.encoder_layers} + {backbone.decoder_layers} layers, width {backbone.width}, "
        f"{backbone.parameters / 1e6:.1f} M parameters (from {planned.model.source}; no weights were read)"
    )
    say(f"lengths are {'exact' if found.rows.exact else 'ESTIMATED'}: {found.rows.how}")
    print_table(
        ("split", "examples", "tokens", "parts"),
        [(name, s.examples, s.tokens, s.parts) for name, s in manifest.splits.items()],
        f"rows of {manifest.task.name}",
    )
    tokens = found.rows.tokens
    arrays = [(name, size(count), f"{count / tokens:,.0f}") for name, count in found.bytes.items()]
    together = ("together", size(found.total_bytes), f"{found.total_bytes / tokens:,.0f}")
    print_table(("array", "size", "bytes a token"), [*arrays, together], f"the store, {planned.store}")
    free = "" if found.free_bytes is None else f", {size(found.free_bytes)} free"
    say(f"disk: {'holds it' if _holds(found) else 'not known' if free == '' else 'TOO SMALL for it'}{free}")
    _print_times(found, planned.training)
    rows = [
        (stage, *(size(peaks[k]) if k in peaks else "-" for k in ("host", "device")))
        for stage, peaks in found.peak_bytes.items()
    ]
    print_table(("stage", "host", "device"), rows, "peak memory, at least")
    settings = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in advice.options.items())
    total = f" ({size(advice.total_bytes)})" if advice.total_bytes else ""
    say(f"recommended: {settings or 'nothing'}{total}. {advice.why}")
    oldest = min(planned.kept.used, key=lambda used: used["measured"])
    say(
        f"measured on this machine {oldest['measured']}, load {oldest['load_average']:.1f}; "
        "--recalibrate measures again"
    )


def _print_times(found: "Estimate", training: "Training") -> None:
    networks, epochs = training.networks, training.run.epochs
    read = training.read
    of = f"{networks} network{'s' * (networks > 1)} {read.cell}-{read.hidden}"
    names = {
        "device": "an epoch, store held on the device",
        "memory": "an epoch, store held in memory",
        "streamed": "an epoch, store streamed from the disk",
        "live": "an epoch without a store, the backbone in the loop",
    }
    rows = [("extraction, once", duration(found.extraction_seconds), "")]
    for tier, seconds in found.epoch_seconds.items():
        here = f"<- with --memory {training.memory:g}" if tier == found.tier else ""
        rows.append((names[tier], "-" if seconds is None else duration(seconds), here))
    live = epochs * (found.epoch_seconds["live"] or 0.0)
    whole = found.extraction_seconds + epochs * found.cached_epoch
    rows.append((f"{epochs} epochs with a store, extraction included", duration(whole), ""))
    rows.append((f"{epochs} epochs without one", duration(live), ""))
    print_table(("what", "time", ""), rows, f"time, {of}, batches of {training.run.batch_size}")
    pays = found.pays_from_epoch
    say("the store never pays" if pays is None else f"the store pays from epoch {pays} on")


def _holds(found: "Estimate") -> bool | None:
    return None if found.free_bytes is None else found.total_bytes <= found.free_bytes


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    for unit, length in (("min", 60), ("h", 3600)):
        if seconds < 100 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds / 86400:.3g} days"
