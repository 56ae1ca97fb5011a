"""Plan, fill, seal: the whole of stage one."""

import dataclasses
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from read_cache.backbones.t5 import Backbone
from read_cache.errors import StoreError
from read_cache.extract.calibrate import calibrate
from read_cache.extract.parts import compute_part, part_activations
from read_cache.extract.plan import Plan
from read_cache.store.files import LocalFiles
from read_cache.store.lock import Worker, leftover, planning
from read_cache.store.manifest import Manifest, StoreFolder
from read_cache.store.quantization import Calibration
from read_cache.store.reader import array_bytes, read_calibration
from read_cache.store.writer import StoreWriter, create_store, sweep


def open_store(folder: StoreFolder, plan: Plan, backbone: Backbone, worker: Worker | None = None) -> StoreWriter | None:
    """A writer for the planned store, new or begun before; None where it is sealed already.

    Of several workers whoever comes first plans the store; the others wait for it, and one takes over if it dies.
    Raises StoreError where the folder holds a store of other settings, something else, or cannot be written, and where
    the disk cannot hold the store.
    """
    if not (folder.sealed or folder.planned):
        _plan_store(folder, plan, backbone)
    else:
        check_same_store(folder, plan)
    if folder.sealed:
        sweep(folder)
        return None
    return StoreWriter(folder, plan.manifest, alone=worker is None or worker.count == 1)


def _plan_store(folder: StoreFolder, plan: Plan, backbone: Backbone) -> None:
    """Bring a store that is absent or begun to the state *planned*, unless another worker has by then."""
    try:
        with planning(folder):
            if folder.sealed or folder.begun:
                check_same_store(folder, plan)
            if folder.sealed or folder.planned:
                return
            if isinstance(folder.files, LocalFiles):
                _check_place(folder.files.root, sum(array_bytes(plan.manifest).values()))
            token_ids = plan.manifest.trie.tokens if plan.manifest.trie else np.arange(backbone.config.vocab_size)
            folder.begin(plan.manifest)  # before the backbone runs: whoever comes second hears of it now
            head = (token_ids, backbone.head_rows(torch.from_numpy(token_ids)).numpy())
            create_store(folder, plan.manifest, plan.plan_arrays, head, make_calibration(plan, backbone))
    except OSError as error:
        raise StoreError(f"{folder.path} cannot be written: {error.strerror or error}") from error


def check_same_store(folder: StoreFolder, plan: Plan) -> None:
    """StoreError where a store, finished or begun, is of other settings or rows than the plan's."""
    existing = (None if folder.sealed else folder.read_plan()) or folder.read_manifest()  # it may be sealed by now
    if existing != plan.manifest:
        raise StoreError(
            f"{folder.path} holds {'a store' if folder.sealed else 'an unfinished store'} of other "
            f"settings or rows: {_differences(existing, plan.manifest)}. "
            "Give another --store, or remove that folder"
        )


def _check_place(path: Path, needed: int) -> None:
    """StoreError where the folder is no place for a new store, or its disk is too small."""
    ours = {StoreFolder.PLAN, StoreFolder.ARRAYS}
    if path.exists() and (not path.is_dir() or {entry.name for entry in path.iterdir() if not leftover(entry)} - ours):
        raise StoreError(f"{path} exists and is no store: give another --store, or an empty folder")
    free = shutil.disk_usage(path).free
    if needed > free:
        raise StoreError(
            f"the store needs {needed / 1e9:.2f} GB and {path} has {free / 1e9:.2f} GB free: "
            "make room, use --dtype int8, --rank, --layers or --max-examples, or give another --store"
        )


def make_calibration(plan: Plan, backbone: Backbone) -> Calibration | None:
    """Calibrated on the first training part, whoever plans the store; None where states are stored as they are."""
    form = plan.manifest.form
    if not form.calibrated:
        return None
    whole = dataclasses.replace(form, dtype="fp32", attention="none", attention_dtype="fp32", rank=0)
    states = [arrays["encoder/hidden"] for _, arrays in part_activations(plan, backbone, "train", 0, whole, None)]
    return calibrate(np.concatenate(states, axis=1), form)


def fill_store(
    writer: StoreWriter,
    plan: Plan,
    backbone: Backbone,
    progress: Callable[[int], None] = lambda tokens: None,
    worker: Worker | None = None,
) -> None:
    """Compute and write every missing part, then seal. `progress` is called with the tokens of each finished part.

    A part is written on a thread while the next one is computed. A worker takes its own parts first, then whatever
    others have left: two may compute the same part, which gives the same bytes. Raises UserError for non-finite
    activations.
    """
    calibration = read_calibration(writer.folder, plan.manifest)
    with ThreadPoolExecutor(1, thread_name_prefix="part-writer") as pool:
        pending: tuple[int, Future[None]] | None = None
        for split, part in own_parts_first(writer.missing_parts(), worker or Worker()):
            layout = plan.splits[split].layout
            tokens = int(layout.length[layout.examples(part)].sum())
            if not writer.is_missing(split, part):
                progress(tokens)
                continue
            buffer = writer.part_buffer(split, part)
            compute_part(plan, backbone, buffer, calibration)
            if pending is not None:
                pending[1].result()
                progress(pending[0])
            pending = (tokens, pool.submit(writer.write_part, buffer))
        if pending is not None:
            pending[1].result()
            progress(pending[0])
    if not writer.folder.sealed:
        writer.seal()


def own_parts_first(missing: list[tuple[str, int]], worker: Worker) -> list[tuple[str, int]]:
    """Every n-th part for each of n workers; then the others', from a place of its own so that few are done twice."""
    shares = [missing[number :: worker.count] for number in range(worker.count)]
    own = worker.number - 1
    others = [part for share in shares[own + 1 :] + shares[:own] for part in reversed(share)]
    return shares[own] + others


def _differences(found: Manifest, expected: Manifest) -> str:
    """The settings in which two manifests differ, found and expected."""
    lines = []
    for field in dataclasses.fields(Manifest):
        old, new = getattr(found, field.name), getattr(expected, field.name)
        if old != new:
            short = len(f"{old}{new}") < 100 and field.name not in ("fingerprint", "tokenizer_digest")
            lines.append(f"{field.name} is {old}, asked for {new}" if short else f"{field.name} differs")
    return "; ".join(lines)
