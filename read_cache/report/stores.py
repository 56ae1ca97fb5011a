"""Baselines, formats and sizes of the stores of a run, as far as the stores are still there."""

from collections.abc import Sequence

from read_cache.errors import UserError
from read_cache.report.frames import Baselines
from read_cache.scoring.baselines import baselines
from read_cache.store.reader import StoreReader, array_bytes
from read_cache.store.schema import Format
from read_cache.training.results import Result


def describe_stores(results: Sequence[Result]) -> tuple[Baselines, dict[str, str], list[str]]:
    """Return (baselines by task, format and bytes a token by identity, paths of stores that are gone)."""
    by_task, formats, gone = {}, {}, []
    for result in {result.identity: result for result in results}.values():
        try:
            store = StoreReader(result.store)
        except UserError:
            store = None
        if store is None or store.manifest.identity != result.identity:
            gone.append(result.store)
            continue
        size = sum(array_bytes(store.manifest).values())
        tokens = sum(split.tokens for split in store.manifest.splits.values())
        formats[result.identity] = f"{format_name(store.manifest.format)}; {size / tokens:,.0f} bytes a token"
        if result.task not in by_task:
            by_task[result.task] = baselines(store)
    return by_task, formats, gone


def format_name(format: Format) -> str:
    """Return a storage format in words, such as "int8, rank 64, attention mean, uint8"."""
    parts = [format.dtype, f"rank {format.rank}" if format.rank else "", f"attention {format.attention}"]
    return ", ".join(filter(None, [*parts, format.attention_dtype if format.attention != "none" else ""]))
