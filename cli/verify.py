"""`read-cache verify`: read everything, name what is wrong."""

from functools import partial
from typing import Annotated

import typer

from read_cache.cli.output import print_json, progress_bar, say
from read_cache.errors import StoreError
from read_cache.store.folder import StoreFolder, find_stores, find_unfinished
from read_cache.store.reader import StoreReader
from read_cache.store.verify import verify_store


def verify(
    store: Annotated[list[str], typer.Argument(help="Stores, or folders of stores.")],
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Read every chunk of every store; name each that is missing, corrupt or not finite. Exit code 1 if there is one.

    A store that is not complete, or that cannot be opened, is a finding too.
    """
    findings: dict[str, list[str]] = {}
    for path in store:
        try:
            unfinished = {folder.path for folder in find_unfinished(path)}
            folders = [folder for folder in _stores(path, bool(unfinished)) if folder.path not in unfinished]
        except StoreError as error:
            findings[path] = [str(error)]
            continue
        findings |= {name: ["its extraction has not ended"] for name in unfinished}
        for folder in folders:
            findings[folder.path] = _verify(folder)
    if json:
        print_json(findings)
    for path, lines in findings.items():
        if not json:
            for finding in lines:
                print(f"{path}: {finding}")
        count = f"{len(lines)} finding{'s' if len(lines) > 1 else ''}"
        say(f"{path}: {count if lines else 'every chunk is present, intact and finite'}")
    if any(findings.values()):
        raise typer.Exit(1)


def _stores(path: str, has_unfinished: bool) -> list[StoreFolder]:
    """The sealed stores at or below a path. Raises StoreError if it holds no store at all."""
    folder = StoreFolder(path)
    if folder.sealed:
        return [folder]
    below = [StoreFolder(f"{folder.path}/{name}") for name in folder.files.find(StoreFolder.MANIFEST)]
    return below if below or has_unfinished else find_stores(path)


def _verify(folder: StoreFolder) -> list[str]:
    """Everything that is wrong with one store; one that cannot be opened has one finding."""
    try:
        reader = StoreReader(folder)
        parts = sum(split.parts for split in reader.manifest.splits.values())
        with progress_bar() as bar:
            row = bar.add_task(f"verify {folder.path}", total=parts)
            return list(verify_store(reader, partial(bar.advance, row)))
    except StoreError as error:
        return [str(error)]
