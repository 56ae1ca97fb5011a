"""Copying a sealed store to another folder or URL, as an extraction there would write it: the manifest last."""

from collections.abc import Collection, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from read_cache.errors import StoreError
from read_cache.store.folder import StoreFolder
from read_cache.store.manifest import Manifest, differences
from read_cache.store.schema import activation_arrays
from read_cache.store.writer import mark_file, sweep
from read_cache.watch import Watch

if TYPE_CHECKING:
    from read_cache.hub import Commits

CARD = """---
pretty_name: {task} as {backbone} sees it
tags: [read-cache]
viewer: false
---

# Activations of {backbone} on {task}

A store of read-cache: the hidden states and attention weights of a frozen language model for every row of a dataset,
as Zarr arrays. `manifest.json` describes it. Networks are trained from it without the model:

```python
import read_cache

store = read_cache.open_store("{url}")
results = read_cache.train("{url}", network=["read", "probe"])
```
"""
"""README.md of a dataset that holds one store. Its rows are no table that the hub could show."""

BESIDE = ("README.md", ".gitattributes")
"""Files that the hub has beside a store."""


def push_store(source: StoreFolder, manifest: Manifest, url: str, private: bool | None, watch: Watch) -> StoreFolder:
    """Copy a sealed store part by part and return the copy. Parts that are complete in it are skipped.

    Raises StoreError if the target holds another store, if a file is missing, or if the target cannot be written.
    """
    target = StoreFolder(url)
    sizes = {name: size for name, size in source.files.sizes("").items() if name not in BESIDE}
    with target.files.reaching(""):
        commits = open_commits(target, private)
    if target.sealed or target.begun:
        other = target.read_manifest() if target.sealed else target.read_plan() or manifest
        if differences(other, manifest):
            raise StoreError(f"{target.path} holds another store, of {other.provenance.model}: choose another place")
        if target.sealed:
            watch.say(f"{target.path} is complete already")
            return target
    try:
        target.begin(manifest)
        present, done, total = target.files.sizes(""), 0, sum(sizes.values())
        for names in steps(manifest, sizes):
            if any(present.get(name) != sizes.get(name) for name in names):  # all files of a part come from one store
                write(target, commits, {name: source.files.read(name) for name in names})
            done += sum(sizes.get(name, 0) for name in names)
            watch.progress(f"push {target.path}", done, total)
        write(target, commits, card(manifest, url, commits) | {target.MANIFEST: manifest.text})
        if commits is None:
            sweep(target)
        else:
            with target.files.reaching(target.MANIFEST):
                commits.remove(target.PLAN)
                commits.commit(f"Complete the store of {manifest.task.name}")
    except OSError as error:
        raise StoreError(
            f"{source.path} cannot be copied to {target.path}: {error}. Complete parts are kept: make room, or check "
            f"the store with read-cache verify, and push it again"
        ) from error
    watch.say(f"{target.path} is complete: {total / 1e6:,.1f} MB")
    return StoreFolder(url)  # with a client that has listed nothing yet


def open_commits(target: StoreFolder, private: bool | None) -> "Commits | None":
    """Return the commits to a repository of the hub, which is made; None where each file is written by itself."""
    if not target.files.on_hub:
        return None
    from read_cache.hub import Commits, make_bucket

    return None if make_bucket(target.path, private) else Commits(target.path, private)


def steps(manifest: Manifest, names: Collection[str]) -> Iterator[list[str]]:
    """Yield the files of each step: those that precede all parts, the root last; then each part's, the mark last.

    So an interrupted copy is an unfinished store.
    """
    specs = activation_arrays(manifest.backbone, manifest.format)
    parts = [
        [*(manifest.shard_file(spec, split, part) for spec in specs), mark_file(split, part)]
        for split, info in manifest.splits.items()
        for part in range(info.parts)
    ]
    known = {StoreFolder.ROOT, StoreFolder.MANIFEST, StoreFolder.PLAN, *chain.from_iterable(parts)}
    yield [*sorted(name for name in names if name not in known), StoreFolder.ROOT]
    yield from parts


def write(target: StoreFolder, commits: "Commits | None", files: Mapping[str, bytes]) -> None:
    """Write files, in order."""
    if commits is None:
        for name, data in files.items():
            target.files.write(name, data)
    else:
        with target.files.reaching(next(iter(files))):
            commits.add(files)


def card(manifest: Manifest, url: str, commits: "Commits | None") -> dict[str, bytes]:
    """Return README.md of a dataset that holds nothing but the store; else nothing."""
    if commits is None or not commits.at_root:
        return {}
    text = CARD.format(task=manifest.task.name, backbone=Path(manifest.backbone.name).name, url=url)
    return {"README.md": text.encode()}
