"""What a store's frozen states hold for its task, asked of linear models, and what its attention can compare.

`python -m read_cache.bench.readouts STORES` prints it as Markdown. A side network reads these states, and mixes tokens
by these weights alone; fine-tuning changes both. Where length and repeated tokens alone say what no readout of states
does, and no layer looks for a token's other occurrence, `train --matching` gives the side network what is missing.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated

import numpy as np
import torch
import typer
from scipy.sparse import csr_array, lil_array

from read_cache.errors import UserError
from read_cache.loader.batch import Batch
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.program import run_program
from read_cache.scoring.baselines import linear_probe
from read_cache.store.manifest import find_stores
from read_cache.store.reader import SplitReader, StoreReader

BATCH = 128
RANDOM_FEATURES, GAIN = 512, 4.0
NEAR = 3
"""Tokens that are no further apart attend to one another for their nearness."""


def bag_of_tokens(split: SplitReader, vocabulary: int, averaged: bool = False) -> csr_array:
    """[examples, vocabulary]: 1 where an example holds a token.

    Averaged, as attention gathers: a token's share of its example's places, times the mean length.
    """
    bag, mean_length = lil_array((split.examples, vocabulary)), split.plan["length"].mean()
    for example in range(split.examples):
        found = tokens_of(split, example)
        tokens, times = np.unique(found, return_counts=True)
        bag[example, tokens] = times * mean_length / len(found) if averaged else 1
    return bag.tocsr()


def repetition(split: SplitReader) -> np.ndarray:
    """[examples, 2]: tokens, and how many of them occurred before in their example."""
    different = [len(np.unique(tokens_of(split, example))) for example in range(split.examples)]
    return np.stack([split.plan["length"], split.plan["length"] - np.array(different)], axis=1)


def tokens_of(split: SplitReader, example: int) -> np.ndarray:
    """[S]: its token ids."""
    start = split.plan["token_offset"][example]
    return split.plan["input_ids"][start : start + split.plan["length"][example]]


def batches(store: StoreReader, split: SplitReader, attention: bool) -> Iterator[Batch]:
    """All of a split, in order; it is passed once, so nothing of it is kept."""
    return SplitBatches(split, make_collator(store), BATCH, tier="streamed", attention=attention).in_order()


def averaged_states(store: StoreReader, split: SplitReader) -> dict[str, np.ndarray]:
    """[examples, D or features] by name, averaged over tokens: encoder states, random features of them."""
    width, generator = store.manifest.backbone.width, torch.Generator().manual_seed(0)
    W_DK = torch.randn(width, RANDOM_FEATURES, generator=generator) * GAIN * width**-0.5
    found: dict[str, list[np.ndarray]] = {}
    for batch in batches(store, split, attention=False):
        share_BS1 = (batch.encoder.real / batch.encoder.real.sum(1, keepdim=True))[..., None]
        embeddings, *layers = batch.encoder.whole_layers()
        features = {
            "embeddings": embeddings,
            f"{RANDOM_FEATURES} random features of embeddings": (embeddings @ W_DK).tanh(),
        }
        features |= {f"states of layer {n}": states for n, states in zip(batch.encoder.layers, layers, strict=True)}
        for name, values_BSK in features.items():
            found.setdefault(name, []).append((values_BSK * share_BS1).sum(1).numpy())
    return {name: np.concatenate(rows) for name, rows in found.items()}


def attention_to_twins(store: StoreReader, split: SplitReader) -> np.ndarray:
    """[L, 2]: a token's mean weight on its only other occurrence, and on another token, both further than `NEAR` away.

    Heads are averaged. The store holds attention weights.
    """
    example, total, pairs = 0, np.zeros((len(store.manifest.form.encoder_layers), 2)), 0
    for batch in batches(store, split, attention=True):
        assert batch.encoder.attention is not None
        weights_LBSS = batch.encoder.attention.float()
        if weights_LBSS.ndim == 5:
            weights_LBSS = weights_LBSS.mean(1)
        for weights_LSS in weights_LBSS.unbind(1):
            ids = tokens_of(split, example)
            place = np.arange(len(ids))
            far = np.abs(place[:, None] - place) > NEAR
            same = far & (ids[:, None] == ids)
            one = same.sum(1) == 1
            same, others = same[one], (far & ~same)[one]
            weights = weights_LSS[:, : len(ids), : len(ids)].numpy()[:, one]
            total[:, 0] += (weights * same).sum((1, 2))
            total[:, 1] += ((weights * others).sum(2) / np.maximum(others.sum(1), 1)).sum(1)
            pairs, example = pairs + int(one.sum()), example + 1
    return total / max(pairs, 1)


def readouts(stores: Annotated[str, typer.Argument(help="A store, or a folder of them.")]) -> None:
    """Print the metrics of linear models, and attention, of every store. UserError for a task without labels."""
    for folder in find_stores(stores):
        store = StoreReader(folder)
        if not store.manifest.task.labels:
            raise UserError(f"task {store.manifest.task.name} of store {folder.path} has no labels to read out")
        manifest, splits = store.manifest, {name: store.split(name) for name in store.manifest.splits}
        vocabulary = 1 + max(int(split.plan["input_ids"].max()) for split in splits.values())
        judged = [name for name in splits if name != "train"]
        print(f"| {manifest.task.name} ({manifest.task.metric}), a linear model of | {' | '.join(judged)} |")
        print("|---" * (1 + len(judged)) + "|")
        for kind, averaged in (("the bag of tokens", False), ("the average of its tokens", True)):
            bags = {name: bag_of_tokens(split, vocabulary, averaged) for name, split in splits.items()}
            print_row(kind, linear_probe(store, bags, standardized=False))
        print_row("length and repeated tokens", linear_probe(store, {n: repetition(s) for n, s in splits.items()}))
        states = {name: averaged_states(store, split) for name, split in splits.items()}
        for features in states["train"]:
            print_row(features, linear_probe(store, {name: found[features] for name, found in states.items()}))
        if manifest.form.attention != "none":
            print("\n| encoder layer | weight on a token's only other occurrence | on another token |\n|---|---|---|")
            found = attention_to_twins(store, splits["validation"])
            for layer, (twin, other) in zip(manifest.form.encoder_layers, found, strict=True):
                print(f"| {layer} | {twin:.3f} | {other:.3f} |")
        print(flush=True)


def print_row(name: str, metrics: Mapping[str, float]) -> None:
    """One row of the table, at once."""
    print(f"| {name} | {' | '.join(f'{metric:.1f}' for metric in metrics.values())} |", flush=True)


if __name__ == "__main__":
    run_program(readouts)
