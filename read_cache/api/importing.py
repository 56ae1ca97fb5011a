"""`read_cache.import_states`: a store of states that another program has computed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from read_cache.api.extraction import default_store
from read_cache.config import ExtractConfig
from read_cache.errors import UserError
from read_cache.extraction.fill import fill_store, open_store
from read_cache.extraction.imported import STACK, ImportedStates, formatted
from read_cache.extraction.plan import plan_encoded
from read_cache.extraction.rows import protocol_splits
from read_cache.settings import read_settings, unknown_setting
from read_cache.store.folder import StoreFolder
from read_cache.store.lock import Worker, filling
from read_cache.store.reader import StoreReader
from read_cache.tasks import find_task
from read_cache.watch import Watch

SETTINGS = ("dtype", "positions", "rank", "layers", "max_examples", "seed", "part_tokens")
"""Settings of extraction that an import has too."""


def import_states(
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    task: str,
    store: str | Path | None = None,
    *,
    model: str,
    watch: Watch = Watch(),
    **settings: Any,
) -> StoreReader:
    """Write hidden states that another program computed into a store, and return the sealed store.

    Networks that need no attention weights and no LM head train from it. The rows are read twice, one at a time.

    Args:
        rows: by split (train, validation and, optionally, test) a `datasets.Dataset` or a list of rows with the columns

            - `hidden_states`: [states, tokens, width], or [states, width] for one vector a row; or the path of the
              safetensors file that vLLM wrote for the row's request.
            - the task's label, as for `extract`.
            - optional, [tokens]: `input_ids`, which are not read where a file has them; `attention_mask`, 0 at padding;
              `segment`, the number of the text that a token belongs to, -1 for special tokens.
        task: as for `extract`; it gives labels and metric. Splits are used as they are.
        store: a folder or URL; by default stores/MODEL/TASK.
        model: name of the model that computed the states. Networks are evaluated on stores of the same name.
        watch: functions to call.
        settings: dtype, positions, rank, layers, max_examples, seed and part_tokens, as for `extract`.

    Raises:
        UserError: bad rows, a task with an open target, a store with other settings or states in that folder.
    """
    if unknown := settings.keys() - {*SETTINGS}:
        raise UserError(unknown_setting(min(unknown), SETTINGS))
    (config,) = read_settings({"attention": "none", **settings}, ExtractConfig)
    if not isinstance(rows, Mapping):
        raise UserError(f"rows are a {type(rows).__name__}, expected rows by split: train, validation and perhaps test")
    described = find_task(task)
    if described.target:
        raise UserError(f"task {described.name} has an open target, which needs a language model's head: use extract")
    splits = protocol_splits({name: formatted(of_split) for name, of_split in rows.items()}, "as_given")
    states = ImportedStates(model, splits)
    encoded = states.encode(described)
    longest = max(len(tokens) for split in encoded.values() for tokens in split.stacks[STACK]["token"])
    config = config.replaced(max_source_length=max(longest, 4))
    plan = plan_encoded(states, described, "imported", encoded, config)
    folder = StoreFolder(default_store(model, described) if store is None else store)
    with filling(folder, Worker()):
        writer = open_store(folder, plan, states, say=watch.say)
        if writer is not None:
            fill_store(writer, plan, states)
    return StoreReader(folder)
