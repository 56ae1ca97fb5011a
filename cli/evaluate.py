"""`read-cache evaluate`: metrics of trained networks on a store."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from read_cache.cli.output import print_json, print_table
from read_cache.errors import UserError
from read_cache.networks.saved import find_networks, load_network, told_apart

if TYPE_CHECKING:
    from read_cache.scoring.evaluator import Evaluation


def evaluate(
    store: Annotated[str, typer.Option(help="The store to evaluate on.")],
    network: Annotated[
        list[Path] | None, typer.Option(help="A network's folder, or a folder of them; may be repeated.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="validation or test.", show_default="test, or validation without one")
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Add the majority class, the untrained backbone and a linear probe.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Examples in a batch.")] = 128,
    memory: Annotated[float, typer.Option(help="GB for parts of the store.")] = 4.0,
    device: Annotated[str, typer.Option(help="Where the networks run.")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Metrics of networks on a store's split, from the store alone."""
    from read_cache.device import check_device
    from read_cache.scoring.baselines import baselines as all_baselines
    from read_cache.scoring.evaluator import check_trained
    from read_cache.store.reader import StoreReader
    from read_cache.train.run import open_evaluator

    if not network and not baselines:
        raise UserError("nothing to evaluate: give --network FOLDER, or --baselines")
    check_device(device)
    reader = StoreReader(store)
    manifest = reader.manifest
    name = split or ("test" if "test" in manifest.splits else "validation")
    folders = find_networks(network or [])
    loaded = [load_network(folder) for folder in folders]
    for record in (one.record for one in loaded):
        check_trained(record, reader)
    evaluator = open_evaluator(reader, [one.record.read for one in loaded], name, device, memory, batch_size)
    found = evaluator.evaluate([one.network.to(device) for one in loaded]) if loaded else []
    rows: list[dict[str, Any]] = [
        {"network": who, "metric": result.metric, "loss": result.loss, **parts(result)}
        for who, result in zip(told_apart([one.record.name for one in loaded], folders), found, strict=True)
    ]
    if baselines:
        rows += [{"network": who, "metric": by[name]} for who, by in all_baselines(reader, probe=True).items()]
    if json:
        print_json({"task": manifest.task.name, "split": name, "metric": manifest.task.metric, "results": rows})
    else:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        title = (
            f"{manifest.task.name}, {name} ({evaluator.split.examples:,} examples): {manifest.task.metric}, times 100"
        )
        print_table(columns, [[row.get(column) for column in columns] for row in rows], title)


def parts(found: "Evaluation") -> dict[str, float]:
    """What a metric is the mean of; nothing where it is one number."""
    return found.details if len(found.details) > 1 else {}
