"""Four GLUE-shaped sample tasks that seeded grammars generate, so that a demo runs without a network.

Each task is a folder of `train`, `validation` and `test` files (`.jsonl.gz`, one row a line, GLUE column names).
`python -m read_cache.data.samples` writes the bundled files again, byte for byte.
"""

from __future__ import annotations

from pathlib import Path

TASKS = ("sample-acceptability", "sample-sentiment", "sample-similarity", "sample-entailment")


def sample_folder(task: str) -> Path:
    """The folder that holds `task`'s `train`, `validation` and `test` files."""
    if task not in TASKS:
        raise ValueError(f"no sample task {task!r}; there are {', '.join(TASKS)}")
    return Path(__file__).resolve().parent / task
