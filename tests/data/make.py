"""Write the stores and networks that every later version must still open: tests/data/schema3.tar.xz.

Run it once for each schema of stores, by the version that introduces it, and keep the archives of earlier ones:

    python tests/data/make.py

The archive holds a store of a T5 and one of a BERT, a network of each kind for both, and recorded.json: the digests of
the stores, sums of what batches hold, and what the networks scored.
"""

import json
import os
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import read_cache  # noqa: E402
from read_cache.loader.batches import SplitBatches, make_collator  # noqa: E402
from read_cache.store.reader import StoreReader  # noqa: E402
from read_cache.store.schema import SCHEMA_VERSION  # noqa: E402
from support.backbones import bert_folder  # noqa: E402
from support.tiny_t5 import t5_folder  # noqa: E402

ARCHIVE = HERE / f"schema{SCHEMA_VERSION}.tar.xz"
SENTENCE = "the old river runs past a quiet town where many people live and work near the sea"
WORDS = SENTENCE.split()
ROWS = {"train": 6, "validation": 3, "test": 3}
TASKS = {
    "t5": 'template = "words: {one}"\nlabels = ["no", "yes it is", "yes it was"]\n',
    "bert": 'template = "{one} {two}"\nscores = true\nmetric = "pearson_spearman"\nlabels = ["0.0", "1.0", "2.0"]\n',
}
SETTINGS: dict[str, dict[str, Any]] = {
    "t5": {"dtype": "bf16", "attention": "mean", "part_tokens": 40, "max_source_length": 16},
    "bert": {"dtype": "int8", "attention": "heads", "attention_dtype": "uint8", "rank": 8, "max_source_length": 16},
}
NETWORKS: dict[str, dict[str, Any]] = {
    "read": {"cell": "gru", "hidden": 2},
    "read_matching": {"cell": "rnn", "hidden": 2, "matching": 2},
    "ladder": {"reduction": 8, "head_size": 2, "feed_forward": 4},
    "probe": {"head": {"width": 4}},
}
SPLIT = "test"


def write_inputs() -> None:
    """Write models and rows into the current folder, so that no path of this machine gets into a manifest."""
    for name, folder in (("t5", t5_folder("tied")), ("bert", bert_folder("bert"))):
        os.symlink(folder, name)
        Path(f"{name}.toml").write_text(TASKS[name])
        Path(f"rows-{name}").mkdir()
        for split, count in ROWS.items():
            rows = [row(name, number + 7 * len(split)) for number in range(count)]
            Path(f"rows-{name}", f"{split}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))


def row(name: str, number: int) -> dict[str, Any]:
    """A row of one text and a label, or of two texts and a score."""
    one, two = (" ".join(WORDS[(number * step + k) % len(WORDS)] for k in range(2 + number % 4)) for step in (3, 5))
    return {"one": one, "label": number % 3} if name == "t5" else {"one": one, "two": two, "label": number % 5 / 2}


def record(name: str, networks: Path) -> dict[str, Any]:
    """What a later version must find in a store and its networks again."""
    store = StoreReader(f"stores/{name}")
    return {
        "activations_digest": store.manifest.activations_digest,
        "task_digest": store.manifest.task_digest,
        "identity": store.manifest.identity,
        "sums": sums(store),
        "scores": {
            row["network"]: {name: value for name, value in row.items() if isinstance(value, float)}
            for row in read_cache.evaluate(store.folder.path, networks, split=SPLIT)
        },
    }


def sums(store: StoreReader) -> dict[str, float]:
    """Sums of absolute values of what the batches of every split hold, by name."""
    found: dict[str, float] = {}
    for split in store.manifest.splits:
        for batch in SplitBatches(store.split(split), make_collator(store, raw=True), 2).in_order():
            values = {"final": batch.final, "label": batch.targets.label, "score": batch.targets.score}
            for name, stack in batch.stacks.items():
                values[f"{name}/states"] = stack.whole_states()[:, stack.real]
                values[f"{name}/raw"] = stack.raw_state(len(stack.layers))[stack.real]
                for kind in ("self_attention", "cross_attention"):
                    if (weights := getattr(stack, kind)) is not None:
                        values[f"{name}/{kind}"] = weights
            for name, value in values.items():
                key = f"{split}/{name}"
                found[key] = found.get(key, 0.0) + float(value.double().abs().sum())
    return found


def main() -> None:
    """Make everything in a temporary folder, and put it into the archive."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_inputs()
        recorded = {}
        for name in TASKS:
            settings, networks = SETTINGS[name], Path("networks", name)
            read_cache.extract(name, f"{name}.toml", f"stores/{name}", dataset=f"rows-{name}", **settings)
            for kind, own in NETWORKS.items():
                read_cache.train(f"stores/{name}", networks, network=kind, epochs=2, batch_size=4, lr=0.01, **own)
            recorded[name] = record(name, networks)
        Path("recorded.json").write_text(json.dumps(recorded, indent=2) + "\n")
        kept = [path for top in ("stores", "networks") for path in sorted(Path(top).rglob("*"))]
        with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
            for path in (Path("recorded.json"), *kept):
                if path.is_file() and path.suffix != ".lock" and path.parent.name != "meters":
                    entry = tarfile.TarInfo(str(path))  # no clock and no user
                    entry.size = path.stat().st_size
                    with path.open("rb") as file:
                        archive.addfile(entry, file)
        os.chdir(HERE)
    print(f"{ARCHIVE}: {ARCHIVE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
