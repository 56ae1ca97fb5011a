"""Copying a sealed store to another folder or URL, as an extraction there would write it: the manifest last."""

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from read_cache.errors import StoreError
from read_cache.store.files import leftover
from read_cache.store.folder import StoreFolder
from read_cache.store.manifest import Manifest, differences
from read_cache.store.schema import activation_arrays
from read_cache.store.writer import mark_file, sweep
from read_cache.watch import Watch

if TYPE_CHECKING:
    from read_cache.hub import Uploads

CARD = """---
pretty_name: {title}
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


@dataclasses.dataclass(frozen=True)
class FolderUploads:
    """Files on their way to a folder or URL, one by one; the methods are those of `read_cache.hub.Uploads`."""

    folder: StoreFolder
    of_dataset = False

    def add(self, files: Mapping[str, bytes]) -> None:
        for name, data in files.items():
            self.folder.files.write(name, data)

    def finish(self, files: Mapping[str, bytes], leftover: str, message: str) -> None:
        self.add(files)
        sweep(self.folder)  # `leftover` too


def push_store(source: StoreFolder, manifest: Manifest, url: str, private: bool | None, watch: Watch) -> StoreFolder:
    """Copy a sealed store part by part and return the copy. Parts that are complete in it are skipped.

    Raises StoreError if the target holds another store, if a file is missing, or if the target cannot be written.
    """
    target = StoreFolder(url)
    found = source.files.sizes("")
    sizes = {name: size for name, size in found.items() if name not in BESIDE and not leftover(Path(name))}
    uploads: FolderUploads | Uploads = FolderUploads(target)
    if target.files.on_hub:
        from read_cache import hub

        uploads = hub.Uploads(target.path, private)
    if (sealed := target.sealed) or target.begun:
        other = target.read_manifest() if sealed else target.read_plan() or manifest
        if differences(other, manifest):
            raise StoreError(f"{target.path} holds another store, of {other.provenance.model}: choose another place")
        if sealed:
            watch.say(f"{target.path} is complete already")
            return target
    try:
        target.begin(manifest)
        present, done, total = target.files.sizes(""), 0, sum(sizes.values())
        for names in steps(manifest, sizes):
            # all files of a part come from one store; one that the source lacks is an error
            if any(name not in sizes or present.get(name) != sizes[name] for name in names):
                uploads.add({name: source.files.read(name) for name in names})
            done += sum(sizes.get(name, 0) for name in names)
            watch.progress(f"push {target.path}", done, total)
        task, backbone = manifest.task.name, Path(manifest.backbone.name).name
        title = json.dumps(f"{task} as {backbone} sees it")  # quoted as YAML has it
        card = CARD.format(title=title, task=task, backbone=backbone, url=target.path)
        last = {"README.md": card.encode()} if uploads.of_dataset else {}
        uploads.finish(last | {target.MANIFEST: manifest.text}, target.PLAN, f"Complete {manifest.task.name}")
    except OSError as error:
        raise StoreError(
            f"{source.path} cannot be copied to {target.path}: {error}. Complete parts are kept: make room, or check "
            "the store with read-cache verify, and push it again"
        ) from error
    watch.say(f"{target.path} is complete: {total / 1e6:,.1f} MB")
    return StoreFolder(url)  # with a client that has listed nothing yet


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
