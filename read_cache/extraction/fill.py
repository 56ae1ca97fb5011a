"""Plan, fill, seal: the whole of stage one."""

import dataclasses
import functools
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import torch

from read_cache.backbones.base import Backbone
from read_cache.engines import LocalEngine
from read_cache.engines.base import Engine
from read_cache.errors import StoreError
from read_cache.extraction.calibrate import calibrate
from read_cache.extraction.part import PartNumber, filler, first_stack_states
from read_cache.extraction.plan import Plan
from read_cache.store.files import LocalFiles
from read_cache.store.folder import StoreFolder
from read_cache.store.lock import Worker, folder_locked
from read_cache.store.manifest import differences
from read_cache.store.reader import array_bytes
from read_cache.store.writer import StoreWriter, create_store, sweep


def open_store(
    folder: StoreFolder,
    plan: Plan,
    backbone: Backbone,
    worker: Worker | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> StoreWriter | None:
    """Return a writer for the planned store, new or begun before; None if it is sealed already.

    Two stores are the same if their activations and tasks are equal, wherever the rows came from and however they were
    batched. A sealed store whose task differs in name or metric alone gets the new task section, and `say` a message.
    Of several workers the first one plans the store; the others wait, and one of them continues if it dies.

    Raises StoreError: the folder holds a store of other settings or something else, it cannot be written, or the disk
    cannot hold the store.
    """
    if not (folder.sealed or folder.planned):
        _plan_store(folder, plan, backbone)
    else:
        check_same_store(folder, plan, say)
    if folder.sealed:
        sweep(folder)
        return None
    held = folder.read_plan() or plan.manifest
    return StoreWriter(folder, held, alone=worker is None or worker.count == 1)


def _plan_store(folder: StoreFolder, plan: Plan, backbone: Backbone) -> None:
    """Write the plan of a store that is absent or begun, unless another worker has written it by then."""
    try:
        with folder_locked(folder, "planning.lock", wait=True):  # other workers wait and then find the plan
            if folder.sealed or folder.begun:
                check_same_store(folder, plan)
            if folder.sealed or folder.planned:
                return
            if isinstance(folder.files, LocalFiles):
                _check_disk(folder.files.root, sum(array_bytes(plan.manifest).values()))
            held = folder.begin(plan.manifest)  # before the backbone runs: another extraction is refused from now on
            # with the held manifest's batches: a planner that continues for another writes the same calibration
            shared = shared_values(dataclasses.replace(plan, manifest=held), backbone)
            create_store(folder, held, plan.arrays, shared)
    except OSError as error:
        raise StoreError(f"{folder.path} cannot be written: {error.strerror or error}") from error


def shared_values(plan: Plan, backbone: Backbone) -> dict[str, np.ndarray]:
    """Return the arrays that belong to no split, by name. The calibration is fitted on the first training part."""
    manifest = plan.manifest
    arrays = {f"final_norm/{stack}": weight.numpy() for stack, weight in backbone.final_norm().items()}
    if manifest.backbone.language_model:
        token_ids = manifest.trie.tokens if manifest.trie else np.arange(backbone.config.vocab_size)
        arrays["head/token_ids"] = token_ids
        arrays["head/weight"] = backbone.head_rows(torch.from_numpy(token_ids)).numpy()
    if manifest.format.calibrated:
        calibration = calibrate(first_stack_states(plan, backbone, "train", 0), manifest.format)
        arrays |= {f"calibration/{name}": values for name, values in calibration.arrays().items()}
    return arrays


def check_same_store(folder: StoreFolder, plan: Plan, say: Callable[[str], None] = lambda text: None) -> None:
    """Raise StoreError if a store, finished or begun, has other activations or labels than the plan.

    If a sealed store differs in its task's name or metric alone, its manifest is rewritten.
    """
    planned = plan.manifest
    existing = (None if folder.sealed else folder.read_plan()) or folder.read_manifest()  # it may be sealed by now
    versions = not folder.sealed  # the parts of an unfinished store must not come from two versions of torch
    changes = "; ".join(differences(existing, planned, versions))
    if not changes:
        return
    old, new = existing.task_record, planned.task_record
    same_labels = (old.labels_digest, old.label_ids, old.head) == (new.labels_digest, new.label_ids, new.head)
    same_activations = not differences(existing, planned, False, ("activations",))
    if folder.sealed and same_labels and same_activations:
        folder.files.write(folder.MANIFEST, existing.with_task(new).text)
        say(f"{folder.path}: activations and labels are kept, the task is changed: {changes}")
        return
    raise StoreError(
        f"{folder.path} holds {'a store' if folder.sealed else 'an unfinished store'} of other settings or rows: "
        f"{changes}. Choose another store, or remove that folder"
    )


def _check_disk(path: Path, needed: int) -> None:
    """Raise StoreError if the folder's disk is too small for a new store."""
    free = shutil.disk_usage(path).free
    if needed > free:
        raise StoreError(
            f"the store needs {needed / 1e9:.2f} GB and {path} has {free / 1e9:.2f} GB free: make room, choose "
            "another store, or make this one smaller with dtype int8, rank, layers, attention or max_examples"
        )


def fill_store(
    writer: StoreWriter,
    plan: Plan,
    backbone: Backbone,
    progress: Callable[[int], None] = lambda tokens: None,
    worker: Worker | None = None,
    engine: Engine | None = None,
) -> None:
    """Compute and write every missing part, then seal.

    `progress` is called with the tokens of each part, and with those of all parts that other workers have written since
    the files were listed. Raises UserError for activations that are not finite, and StoreError.
    """
    engine, worker = engine or LocalEngine(), worker or Worker()
    alone = writer.alone and engine.alone
    missing = writer.missing_parts()
    while missing:
        make_filler = functools.partial(filler, writer.folder.path, writer.manifest, plan, backbone, alone, writer.lost)
        taken = next_parts(missing, worker)
        for part in engine.map(make_filler, taken):
            progress(tokens_of(plan, [part]))
        before, missing = missing, writer.missing_parts()
        if others := {*before}.difference(missing, taken):
            progress(tokens_of(plan, others))
    if not writer.folder.sealed:
        writer.seal()


def tokens_of(plan: Plan, parts: Collection[PartNumber]) -> int:
    """Return the number of tokens in some parts."""
    layouts = {name: split.layout for name, split in plan.splits.items()}
    return sum(int(layouts[split].length[layouts[split].examples(part)].sum()) for split, part in parts)


def next_parts(missing: list[PartNumber], worker: Worker) -> list[PartNumber]:
    """Return the missing parts of a worker's smallest turn. It fills them before it lists the files again.

    Parts of other workers are in reversed order, since these fill them from the start.
    """
    turns = [worker.turn(part) for _, part in missing]
    first = min(turns)
    parts = [number for number, turn in zip(missing, turns, strict=True) if turn == first]
    return parts[::-1] if first else parts
