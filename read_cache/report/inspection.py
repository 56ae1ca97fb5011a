"""Statistics of the activations in a store, over a sample of its rows (`read-cache inspect`)."""

import dataclasses
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from read_cache.ancestors import ancestors
from read_cache.config import InspectConfig
from read_cache.loader.batch import Batch, StackBatch
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.loader.order import store_batches
from read_cache.report.pictures import COLOURS, MARKERS, logarithmic, styled
from read_cache.settings import read_settings
from read_cache.store.reader import StoreReader
from read_cache.store.schema import RMS_EPSILON

QUANTILES = {"10%": 0.1, "median": 0.5, "90%": 0.9}
ROWS = 16
"""Rows in a batch: attention weights of every head and long rows still fit into memory."""
LENGTHS, NORMS = "length of texts", "norm of hidden states"
ENTROPY, SIMILARITY = "entropy of attention", "similarity of layers"
Kind = Literal["self", "cross"]


@dataclasses.dataclass(frozen=True)
class Inspection:
    """Statistics of a store. A statistic that its format does not allow is an empty frame."""

    title: str
    """Backbone and task, and the number of rows of the sample."""
    lengths: dict[str, np.ndarray]
    """By split: tokens of every row in the first stack, [rows] int32."""
    norms: pd.DataFrame
    """L2 norms of hidden states over the sample's positions: `QUANTILES` by stack and layer; layer 0: embeddings."""
    entropy: pd.DataFrame
    """Entropies of attention weights over the sample's positions: `QUANTILES` by stack, attention and layer.

    0: all weight on one position; 1: equal weights. The mean over heads where a store holds each head, and otherwise
    the entropy of the heads' mean. Positions that attend to one position alone are left out.
    """
    similarity: pd.DataFrame
    """Debiased linear CKA, at most 1, of each pair of layers, by (stack, layer): of the rows' means of phi / rms(phi).

    NaN where a layer is the same in all rows.
    """
    left_out: dict[str, str]
    """Reasons for statistics that the store's format does not allow, by name."""


def inspect(store: str | Path | StoreReader, **settings: Any) -> Inspection:
    """Return statistics of a store's activations over the first training rows, whose order is random.

    Memory: one batch of 16 rows, and a few numbers for each position and layer.

    Args:
        store: the store, or its path.
        settings: fields of `read_cache.config.InspectConfig`.

    Raises:
        UserError: a wrong setting, a store that is not complete or is damaged.
    """
    (config,) = read_settings(settings, InspectConfig)
    reader = store if isinstance(store, StoreReader) else StoreReader(store)
    manifest, format = reader.manifest, reader.manifest.format
    split = reader.split(next(iter(manifest.splits)))
    count = min(config.sample_rows, split.examples)
    collator = make_collator(reader, raw=format.calibrated)  # reads rms
    batches = SplitBatches(split, collator, ROWS, tier="streamed")
    norms, entropy, means = (defaultdict[tuple[Any, ...], list[np.ndarray]](list) for _ in range(3))
    for padded in batches.padded_batches(store_batches(count, ROWS)):
        batch = collator.batch(padded)
        for stack in batch.stacks.values():
            spec = manifest.backbone.stack(stack.name)
            real, pooled = stack.real, stack.name in collator.pooled
            for index, layer in enumerate((0, *stack.layers)):
                state = stack.whole_state(index)
                means[stack.name, layer].append(((state * real[..., None]).sum(1) / real.sum(1)[:, None]).numpy())
                if not pooled:
                    norms[stack.name, layer].append(state_norm(stack, index)[real].numpy())
            for kind, source in ("self", stack.name), ("cross", spec.attends_to):
                if source and getattr(stack, f"{kind}_attention") is not None:
                    attended = attended_positions(batch, stack, source, spec.causal and kind == "self")
                    for layer in stack.layers:
                        weights = stack.of((layer,)).attention(f"{kind}_attention", torch.float32)[0]
                        values = normalised_entropy(weights, attended)[real & (attended > 1)]
                        entropy[stack.name, kind, layer].append(values.numpy())
    similarity = debiased_cka([np.concatenate(rows) for rows in means.values()]) if count > 3 else np.empty((0, 0))
    names = pd.MultiIndex.from_tuples(means if count > 3 else [], names=["stack", "layer"])
    pooled_states = "the store holds its pooled, normalised states"
    left_out = {f"{NORMS} of the {stack}": pooled_states for stack in collator.pooled}
    if not any(len(values) for arrays in entropy.values() for values in arrays):
        left_out[ENTROPY] = "the store holds no attention weights over several positions"
    if count <= 3:
        left_out[SIMILARITY] = f"{split.name} has fewer than 4 rows in the sample"
    return Inspection(
        f"{manifest.backbone.name} on {manifest.task.name}, {count:,} rows of {split.name}",
        {name: reader.split(name).layout.length for name in manifest.splits},
        quantiles(norms, ["stack", "layer"]),
        quantiles(entropy, ["stack", "attention", "layer"]),
        pd.DataFrame(similarity, names, names),
        left_out,
    )


def state_norm(stack: StackBatch, index: int) -> Tensor:
    """Return the L2 norm of one state of a stack, [B, S] float32, which is not pooled."""
    if stack.rms is None:
        return stack.values[index].float().norm(dim=-1)
    width = stack.values.shape[-1] if stack.projection is None else stack.projection.mean.shape[-1]
    return ((stack.rms[index].square() - RMS_EPSILON).clamp(min=0) * width).sqrt()


def attended_positions(batch: Batch, stack: StackBatch, source: str, causal: bool) -> Tensor:
    """Return how many positions each position may attend to, [B, S] int64: those of `source`, or its own path."""
    if not causal:
        return batch.stacks[source].real.sum(1)[:, None].expand_as(stack.real)
    parent = torch.arange(-1, stack.real.shape[1] - 1).expand(stack.real.shape)
    return ancestors(parent if stack.parent is None else stack.parent).sum(-1)


def normalised_entropy(weights: Tensor, attended: Tensor) -> Tensor:
    """Return -sum(p log p) / log(attended), [B, S], mean over heads, of weights [(H,) B, S, from]."""
    p = weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)  # stored sums are rounded
    entropy = -torch.xlogy(p, p).sum(-1) / attended.log()
    return entropy.mean(0) if entropy.ndim == 3 else entropy


def quantiles(values: dict[tuple[Any, ...], list[np.ndarray]], names: list[str]) -> pd.DataFrame:
    """Return `QUANTILES` of the values of each key, in rows whose index has these names; none of a key without any."""
    arrays = {key: joined for key, pieces in values.items() if len(joined := np.concatenate(pieces))}
    rows = [np.quantile(array, list(QUANTILES.values())) for array in arrays.values()]
    index = pd.MultiIndex.from_tuples(list(arrays), names=names)
    return pd.DataFrame(np.reshape(rows, (-1, len(QUANTILES))), index, list(QUANTILES))


def debiased_cka(vectors: list[np.ndarray]) -> np.ndarray:
    """Return the debiased linear CKA of each pair of [n, D] arrays, whose D may differ; n must be 4 or more.

    CKA: Kornblith et al. 2019. The unbiased HSIC of Nguyen et al. 2021 (Eq. 3) keeps it from growing with D / n.
    """
    n, grams = len(vectors[0]), []
    for vector in vectors:
        centred = vector.astype(np.float64) - vector.mean(0, dtype=np.float64)
        grams.append(centred @ centred.T)
        np.fill_diagonal(grams[-1], 0)
    flat, rows = np.stack([gram.ravel() for gram in grams]), np.stack([gram.sum(0) for gram in grams])
    totals = rows.sum(1)
    hsic = flat @ flat.T + np.outer(totals, totals) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (rows @ rows.T)
    own = hsic.diagonal()
    scale = np.sqrt(np.where(own > 1e-12, own, np.nan))  # rounding, where a layer is the same in all rows
    return hsic / np.outer(scale, scale)


@styled()
def activations_figure(found: Inspection) -> Figure:
    """Draw the statistics of a store, a panel for each one that is not empty; the others are named below."""
    frames = {NORMS: found.norms, ENTROPY: found.entropy, SIMILARITY: found.similarity}
    panels = [LENGTHS, *(name for name, frame in frames.items() if not frame.empty)]
    figure = Figure(figsize=(10, 4 if len(panels) < 3 else 7.6), layout="constrained")
    grid = figure.subplots(-(-len(panels) // 2), 2, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.remove()
    for name, axes in zip(panels, grid, strict=False):
        axes.set_title(name)
        if name == LENGTHS:
            every = np.concatenate(list(found.lengths.values()))
            width = -(-int(np.ptp(every) + 1) // 30)
            bins = np.arange(every.min(), every.max() + width + 1, width) - 0.5
            for (split, length), colour in zip(found.lengths.items(), COLOURS, strict=False):
                share = np.full(len(length), 100 / len(length))
                axes.hist(length, bins, weights=share, histtype="step", color=colour, linewidth=1.4, label=split)
            axes.set(xlabel="tokens", ylabel="rows, %")
        elif name == SIMILARITY:
            draw_similarity(figure, axes, frames[name])
        else:
            draw_layers(axes, frames[name])
            axes.set_ylabel("L2 norm" if name == NORMS else "entropy / log of positions")
            if name == NORMS:
                logarithmic(axes, "y")
            else:
                axes.set_ylim(0, 1)
        if name != SIMILARITY:
            axes.legend()
    figure.suptitle(found.title)
    if found.left_out:
        figure.supxlabel("; ".join(f"no {name}: {reason}" for name, reason in found.left_out.items()), fontsize=8)
    return figure


def draw_layers(axes: Axes, frame: pd.DataFrame) -> None:
    """Draw the median by layer, and a band from the 10% to the 90% quantile, of each stack or kind of attention."""
    series = frame.groupby(level=[name for name in frame.index.names if name != "layer"], sort=False)
    for (key, rows), colour, marker in zip(series, COLOURS, MARKERS, strict=False):
        layers = rows.index.get_level_values("layer")
        axes.fill_between(layers, rows["10%"], rows["90%"], color=colour, alpha=0.2, linewidth=0)
        axes.plot(layers, rows["median"], color=colour, marker=marker, markersize=4, label=", ".join(key))
    axes.set(xlabel="layer (line: median; band: 10% to 90% of positions)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def draw_similarity(figure: Figure, axes: Axes, frame: pd.DataFrame) -> None:
    """Draw the similarity of each pair of layers, from 0 to 1; grey where it is undefined."""
    axes.set_facecolor("#bbbbbb")
    axes.grid(visible=False)
    mesh = axes.imshow(frame, vmin=0, vmax=1, cmap="viridis")
    constant = "; grey: the same in all rows" if frame.isna().any(axis=None) else ""
    figure.colorbar(mesh, ax=axes, label=f"debiased linear CKA{constant}")
    stride = -(-len(frame) // 14)
    names = [f"{stack} {layer}" for stack, layer in frame.index]
    axes.set_yticks(range(0, len(names), stride), names[::stride], fontsize=7)
    axes.set_xticks(range(0, len(names), stride), names[::stride], fontsize=7, rotation=90)
