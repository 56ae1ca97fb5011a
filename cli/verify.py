"""`read-cache verify`: read every chunk of stores and print what is wrong."""

from itertools import count
from typing import Annotated

import typer

from read_cache.cli.output import print_json, say, watching
from read_cache.errors import StoreError
from read_cache.store.folder import StoreFolder, find_stores
from read_cache.store.reader import StoreReader
from read_cache.store.verify import verify_store


def verify(
    store: Annotated[list[str], typer.Argument(metavar="STORE...", help="Stores, or folders of stores.")],
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check every chunk of stores.

    A chunk is one layer of one array in a part. The output names each chunk that is missing, corrupt or not finite, and
    each store that is not complete or cannot be opened. The exit code is 1 if there is a finding.
    """
    findings: dict[str, list[str]] = {}
    for path in store:
        findings |= check_below(path)
    if json:
        print_json(findings)
    for path, lines in findings.items():
        for finding in () if json else lines:
            print(f"{path}: {finding}")
        number = f"{len(lines)} finding{'s' if len(lines) > 1 else ''}"
        say(f"{path}: {number if lines else 'every chunk is present, intact and finite'}")
    if any(findings.values()):
        raise typer.Exit(1)


def check_below(path: str) -> dict[str, list[str]]:
    """Return the findings by store at or below a path; if there is no store, one finding about the path."""
    try:
        sealed, unfinished = find_stores(path)
    except StoreError as error:
        return {path: [str(error)]}
    findings = {folder.path: ["its extraction has not ended"] for folder in unfinished}
    return findings | {folder.path: check_store(folder) for folder in sealed}


def check_store(folder: StoreFolder) -> list[str]:
    """Return everything that is wrong with one store; a store that cannot be opened has one finding."""
    try:
        reader = StoreReader(folder)
        parts, done = sum(split.parts for split in reader.manifest.splits.values()), count(1)
        with watching() as watch:
            return list(verify_store(reader, lambda: watch.progress(f"verify {folder.path}", next(done), parts)))
    except StoreError as error:
        return [str(error)]
