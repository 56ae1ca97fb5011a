"""Plan, fill, seal: the whole of stage one."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from read_cache.errors import StoreError, UserError
from read_cache.extract.backbone import Backbone
from read_cache.extract.config import ExtractConfig
from read_cache.extract.encode import Encoder
from read_cache.extract.forward import Example, example_activations
from read_cache.extract.plan import PlannedSplit, make_manifest, plan_split
from read_cache.extract.rows import load_rows, source_name
from read_cache.extract.splits import protocol_splits
from read_cache.store.manifest import Manifest, StoreFolder
from read_cache.store.reader import array_bytes
from read_cache.store.verify import finite
from read_cache.store.writer import StoreWriter, create_store
from read_cache.tasks import Task


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything decided before the backbone runs."""

    manifest: Manifest
    splits: dict[str, PlannedSplit]
    plan_arrays: dict[str, dict[str, np.ndarray]]

    @property
    def truncated(self) -> int:
        """Sources cut to the length limit."""
        return sum(split.encoded.truncated for split in self.splits.values())


def make_plan(backbone: Backbone, task: Task, dataset: str | None, config: ExtractConfig) -> Plan:
    """Load and encode the rows and decide the store's whole layout. Raises UserError for bad rows."""
    rows = protocol_splits(load_rows(task, dataset), task.protocol)
    encoder = Encoder(task, backbone.tokenizer, backbone.start_token, config.max_source_length, config.on_long)
    splits = {name: plan_split(encoder.encode(split_rows, name), config) for name, split_rows in rows.items()}
    plan_arrays = {name: split.plan_arrays() for name, split in splits.items()}
    largest = max(int(arrays[name].max()) for arrays in plan_arrays.values() for name in ("input_ids", "node_token"))
    if largest >= backbone.config.vocab_size:
        raise UserError(
            f"the tokenizer of model {backbone.name} gives token {largest}, but the model knows "
            f"{backbone.config.vocab_size}: is it the tokenizer of another model?"
        )
    manifest = make_manifest(
        config,
        task,
        source_name(task, dataset),
        backbone.info(),
        backbone.tokenizer_digest,
        encoder.label_ids,
        plan_arrays,
        {name: split.layout for name, split in splits.items()},
    )
    return Plan(manifest, splits, plan_arrays)


def open_store(folder: StoreFolder, plan: Plan) -> StoreWriter | None:
    """A writer for the planned store, new or begun before; None where it is sealed already.

    Raises StoreError where the folder holds a store of other settings, something else, or cannot be written, and
    where the disk cannot hold the store.
    """
    existing = folder.read_manifest() if folder.manifest.exists() else folder.read_plan()
    if existing is not None:
        if existing != plan.manifest:
            raise StoreError(
                f"{folder.path} holds {'a store' if folder.manifest.exists() else 'an unfinished store'} of other "
                f"settings or rows: {_differences(existing, plan.manifest)}. "
                "Give another --store, or remove that folder"
            )
        return None if folder.manifest.exists() else StoreWriter(folder, plan.manifest)
    if folder.path.exists() and (not folder.path.is_dir() or set(folder.path.iterdir()) - {folder.arrays}):
        raise StoreError(f"{folder.path} exists and is no store: give another --store, or an empty folder")
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        free, needed = shutil.disk_usage(folder.path).free, sum(array_bytes(plan.manifest).values())
        if needed > free:
            folder.path.rmdir()
            raise StoreError(
                f"the store needs {needed / 1e9:.2f} GB and {folder.path} has {free / 1e9:.2f} GB free: "
                "make room, use --dtype bf16, --attention none or --max-examples, or give another --store"
            )
        return create_store(folder, plan.manifest, plan.plan_arrays)
    except OSError as error:
        raise StoreError(f"{folder.path} cannot be written: {error.strerror or error}") from error


def fill_store(
    writer: StoreWriter, plan: Plan, backbone: Backbone, progress: Callable[[int], None] = lambda tokens: None
) -> None:
    """Compute and write every missing part, then seal. `progress` is called with the tokens of each finished part.

    A part is written on a thread while the next one is computed. Raises UserError for non-finite activations.
    """
    token_ids = plan.manifest.trie.tokens if plan.manifest.trie else np.arange(backbone.config.vocab_size)
    writer.write_head(token_ids, backbone.head_rows(torch.from_numpy(token_ids)).numpy())
    with ThreadPoolExecutor(1, thread_name_prefix="part-writer") as pool:
        pending = None
        for split, part in writer.missing_parts():
            arrays = compute_part(plan, backbone, split, part)
            if pending is not None:
                progress(pending[1].result() or pending[0])
            layout = plan.splits[split].layout
            tokens = int(layout.length[layout.examples(part)].sum())
            pending = (tokens, pool.submit(writer.write_part, split, part, arrays))
        if pending is not None:
            progress(pending[1].result() or pending[0])
    writer.seal()


def compute_part(plan: Plan, backbone: Backbone, split: str, part: int) -> dict[str, np.ndarray]:
    """One part's activations by array name, in the order of the store. Raises UserError for non-finite values."""
    manifest, planned = plan.manifest, plan.splits[split]
    place = planned.layout.examples(part)
    rows = planned.order[place]
    found: list[dict[str, np.ndarray]] = [{}] * len(rows)
    for batch in length_batches(planned.layout.length[place], manifest.batch_tokens):
        nodes = [planned.encoded.nodes[rows[index]] for index in batch]
        examples = [
            Example(planned.encoded.input_ids[rows[index]], node.token, node.parent)
            for index, node in zip(batch, nodes, strict=True)
        ]
        outputs = example_activations(backbone, examples, manifest.dtype, manifest.attention)
        for index, arrays in zip(batch, outputs, strict=True):
            found[index] = arrays
    for row, arrays in zip(rows, found, strict=True):
        for name, values in arrays.items():
            if not finite(values):
                state = next(state for state in range(len(values)) if not finite(values[state]))
                raise UserError(
                    f"{split} row {row}: {name} is not finite at layer {state}, computed in {manifest.compute_dtype}. "
                    "Nothing of this part was written: use --compute-dtype fp32, or look at the model's weights"
                )
    axis = {"encoder/hidden": -2, "decoder/hidden": -2}
    return {name: np.concatenate([arrays[name] for arrays in found], axis=axis.get(name, -1)) for name in found[0]}


def length_batches(length: np.ndarray, batch_tokens: int) -> Iterator[list[int]]:
    """Indices in order of length, cut so that a padded batch has at most `batch_tokens` tokens (or one example)."""
    batch: list[int] = []
    for index in np.argsort(-length, kind="stable").tolist():
        if batch and (len(batch) + 1) * length[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _differences(found: Manifest, expected: Manifest) -> str:
    """The settings in which two manifests differ, found and expected."""
    lines = []
    for field in dataclasses.fields(Manifest):
        old, new = getattr(found, field.name), getattr(expected, field.name)
        if old != new:
            short = len(f"{old}{new}") < 100 and field.name not in ("fingerprint", "tokenizer_digest")
            lines.append(f"{field.name} is {old}, asked for {new}" if short else f"{field.name} differs")
    return "; ".join(lines)
