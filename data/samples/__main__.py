"""Generate the sample tasks: `python -m read_cache.data.samples [--out DIR]`."""

from __future__ import annotations

import argparse
import gzip
import json
import random
from pathlib import Path
from types import ModuleType

from . import TASKS, acceptability, entailment, sentiment, similarity

GRAMMARS: dict[str, ModuleType] = dict(zip(TASKS, (acceptability, sentiment, similarity, entailment), strict=True))
SPLITS = {"train": 3000, "validation": 400, "test": 400}


def sentences(row: dict) -> list[str]:
    """The texts of a row, without its label."""
    return [value for column, value in row.items() if column != "label"]


def rows(grammar: ModuleType, rng: random.Random, count: int, avoid: tuple[str, ...], seen: set[str]) -> list[dict]:
    """`count` rows with no word of `avoid` and no sentence of an earlier row; adds their sentences to `seen`."""
    kept: list[dict] = []
    while len(kept) < count:
        row = grammar.generate(rng)
        texts = sentences(row)
        words = " ".join(texts).lower().replace(",", " ").replace(".", " ").split()
        if not seen.isdisjoint(texts) or any(word in words for word in avoid):
            continue
        seen.update(texts)
        kept.append(row)
    return kept


def write(out: Path) -> None:
    """Write every task's splits below `out`; the same bytes every time."""
    for task, grammar in GRAMMARS.items():
        rng = random.Random(task)
        seen: set[str] = set()
        (out / task).mkdir(parents=True, exist_ok=True)
        for split, count in SPLITS.items():
            count = getattr(grammar, "TRAIN_ROWS", count) if split == "train" else count
            avoid = getattr(grammar, "HELD_OUT", ()) if split == "train" else ()
            lines = "".join(json.dumps(row) + "\n" for row in rows(grammar, rng, count, avoid, seen))
            # An open file object and no name keep time, path and platform out of the gzip header.
            path = out / task / f"{split}.jsonl.gz"
            with path.open("wb") as file, gzip.GzipFile("", "wb", compresslevel=9, fileobj=file, mtime=0) as packed:
                packed.write(lines.encode())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m read_cache.data.samples", description="Generate the sample tasks.")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="folder to write below")
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
