"""`read-cache bench`: micro-benchmarks of both stages."""

import json as json_module
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from read_cache.cli.output import print_table, say
from read_cache.cli.settings import SetOption, parse_set
from read_cache.errors import UserError

if TYPE_CHECKING:
    from read_cache.bench.measure import Result


def bench(
    parts: Annotated[
        list[str] | None, typer.Argument(metavar="[PART]...", help="extract, read, train, live or plan. [default: all]")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Use a small backbone and one repeat: a minute on two cores.")
    ] = False,
    settings: SetOption = [],  # noqa: B006
    json: Annotated[
        Path | None, typer.Option(help="Write a description of the machine and every repeat to this file.")
    ] = None,
) -> None:
    """Measure the costs of extraction and training.

    The two sides of a comparison run in turn. A ratio is the median over the repeats.
    """
    from read_cache.bench.case import QUICK, BenchConfig
    from read_cache.bench.run import PARTS, run_bench

    if json and not json.absolute().parent.is_dir():
        raise UserError(f"folder {json.parent} does not exist")
    config = (QUICK if quick else BenchConfig()).replaced(**parse_set(settings, [BenchConfig]))
    if quick:
        say("--quick only shows that every part runs; the targets hold for runs without it")
    found = {"command": shlex.join(["read-cache", *sys.argv[1:]])}
    found |= run_bench(config, parts or list(PARTS), print_result)
    if json:
        json.write_text(json_module.dumps(found, indent=2, default=str) + "\n", encoding="utf-8")
        say(f"every repeat is in {json}")


def print_result(part: str, result: "Result") -> None:
    """Print the facts and the ratios of a part."""
    from read_cache.report.costs import digits

    def short(value: Any) -> str | None:
        return value if isinstance(value, str) else digits(value)

    facts = ", ".join(f"{name.replace('_', ' ')} {short(value)}" for name, value in result.facts.items())
    say(f"{part}: {facts}")
    columns = ("ratio", "median", "min", "max", "target")
    print_table(columns, [[short(ratio[name]) for name in columns] for ratio in result.ratios], part)
