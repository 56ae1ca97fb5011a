"""`read-cache verify`: read everything, name what is wrong."""

from functools import partial
from typing import Annotated

import typer

from read_cache.cli.output import print_json, progress_bar, say
from read_cache.cli.stores import all_stores
from read_cache.store.manifest import find_unfinished
from read_cache.store.reader import StoreReader
from read_cache.store.verify import verify_store


def verify(
    store: Annotated[list[str], typer.Argument(help="Stores, or folders of stores.")],
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Read every chunk; report any that is missing, corrupt or non-finite, by name. Exit code 1 if there is one.

    A store whose extraction has not ended is a finding too.
    """
    findings: dict[str, list[str]] = {}
    for folder in all_stores(store):
        reader = StoreReader(folder)
        parts = sum(split.parts for split in reader.manifest.splits.values())
        with progress_bar() as bar:
            row = bar.add_task(f"verify {folder.path}", total=parts)
            findings[str(folder.path)] = list(verify_store(reader, partial(bar.advance, row)))
    for folder in (folder for path in store for folder in find_unfinished(path)):
        findings[str(folder.path)] = ["its extraction has not ended"]
    if json:
        print_json(findings)
    for path, found in findings.items():
        if not json:
            for finding in found:
                print(f"{path}: {finding}")
        say(f"{path}: " + (f"{len(found)} findings" if found else "every chunk is there, intact and finite"))
    if any(findings.values()):
        raise typer.Exit(1)
