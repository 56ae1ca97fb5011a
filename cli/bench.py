"""`read-cache bench`: what both stages cost, against the plain things they must not be slower than."""

import dataclasses
import json as json_module
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from read_cache.cli.output import print_table, say
from read_cache.errors import UserError

if TYPE_CHECKING:
    from read_cache.bench.measure import Result


def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            help="Of extract, read, train, networks, live, attach, size and plan.", show_default="all but plan"
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A smaller shape, fewer rows and repeats: a minute on two cores.")
    ] = False,
    task: Annotated[str, typer.Option(help="Whose rows decide the lengths.")] = "sample-entailment",
    dataset: Annotated[str | None, typer.Option(help="Where they are.", show_default="the task's own")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="A folder with tokenizer.json or spiece.model.", show_default="the bundled one")
    ] = None,
    shape: Annotated[
        Literal["t5-small", "t5-base", "t5-large"] | None,
        typer.Option(help="Of the backbone, whose weights are random.", show_default="t5-base, with --quick t5-small"),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(help="Rows the backbone runs over.", show_default="600, with --quick 32")
    ] = None,
    repeats: Annotated[int | None, typer.Option(help="Of every side.", show_default="5, with --quick 2")] = None,
    store_megabytes: Annotated[
        int | None, typer.Option(help="The store that is read and trained from.", show_default="2600, with --quick 120")
    ] = None,
    train_batches: Annotated[
        int | None, typer.Option(help="Batches in one repeat of training.", show_default="24, with --quick 4")
    ] = None,
    peaks: Annotated[
        bool | None,
        typer.Option("--peaks/--no-peaks", help="Peak memory too.", show_default="yes, with --quick no"),
    ] = None,
    device: Annotated[str, typer.Option(help="Where the part networks trains.")] = "cpu",
    folder: Annotated[
        Path | None, typer.Option(help="Where temporary stores lie.", show_default="the system's temporary folder")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="A file for the machine's facts and every repeat.")] = None,
) -> None:
    """Measure extraction, reading, training, use and sizes, both sides of each comparison in one process, in turn."""
    from read_cache.bench.case import QUICK, BenchConfig
    from read_cache.bench.run import PARTS, run_bench

    for path in (folder, json and json.absolute().parent):
        if path is not None and not path.is_dir():
            raise UserError(f"folder {path} does not exist")
    given: dict[str, Any] = {
        "peaks": peaks,
        "shape": shape,
        "rows": rows,
        "repeats": repeats,
        "store_megabytes": store_megabytes,
        "train_batches": train_batches,
    }
    config = dataclasses.replace(
        QUICK if quick else BenchConfig(),
        task=task,
        dataset=dataset,
        tokenizer=tokenizer,
        device=device,
        **{name: value for name, value in given.items() if value is not None},
    )
    if quick:
        say("--quick shows that every part runs; the targets are of the standard case, without it")
    found = {"command": shlex.join(["read-cache", *sys.argv[1:]])}
    found |= run_bench(config, parts or PARTS, folder, print_result)
    if json:
        json.write_text(json_module.dumps(found, indent=2, default=str) + "\n", encoding="utf-8")
        say(f"every repeat is in {json}")


def print_result(result: "Result") -> None:
    """Ratios with their spread, and what was run."""
    facts = (f"{name.replace('_', ' ')} {_short(value)}" for name, value in result.facts.items())
    say(f"{result.part}: {', '.join(facts)}")
    if result.table:
        columns = list(result.table[0])
        print_table(columns, [[_short(row[name]) for name in columns] for row in result.table], result.part)
    if result.ratios:
        rows = [(r.name, r.median, min(r.values), max(r.values), r.target) for r in result.ratios]
        columns = ["ratio", "median", "least", "most", "target"]
        print_table(columns, [[_short(cell) for cell in row] for row in rows], result.part)


def _short(value: float | str) -> str:
    """Three digits or more."""
    return (
        f"{value:,.0f}"
        if isinstance(value, (int, float)) and value >= 1000
        else (f"{value:.3g}" if isinstance(value, float) else str(value))
    )
