"""A live backbone's outputs in the format of a store: the batch that networks see."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from read_cache.backbones import Backbone, StackTokens, Trace
from read_cache.extraction.stored import stored_arrays
from read_cache.loader.batch import Batch, Positions, Targets
from read_cache.loader.collate import Collator
from read_cache.networks.saved import TrainedNetwork
from read_cache.store.layout import pad_integers
from read_cache.store.schema import Calibration, Format

Arrays = dict[str, Tensor]
"""Activations of a padded batch by the store's array names."""


class LiveFormat:
    """A store's format. Networks of one format share the batches it makes."""

    def __init__(
        self, backbone: Backbone, format: Format, calibration: Calibration | None, attention: bool, raw: bool
    ) -> None:
        """`attention`, `raw`: a network reads attention weights, or raw states.

        A live batch has all positions: heads and networks take from these what a store may hold alone.
        """
        self.backbone, self.attention = backbone, attention
        self.format = format.replaced(positions="all", **({} if attention else {"attention": "none"}))
        norms = {name: weight.numpy() for name, weight in backbone.final_norm().items()} if raw else {}
        self.collator = Collator(backbone.spec, self.format, calibration, None, norms, backbone.device, attention, raw)

    def arrays(self, trace: Trace) -> Arrays:
        """Return the activations of the stacks in a trace as a store holds them. Raises UserError if not finite."""
        return stored_arrays(self.backbone, trace, self.format, self.collator.calibration)

    def batch(self, arrays: Arrays, stacks: Mapping[str, StackTokens]) -> Batch:
        """Return the batch of some stacks' arrays.

        Padding is not zeroed: no real position attends to it. `final` is there if the readout stack is among them.
        """
        made = {}
        for name, tokens in stacks.items():
            parent = {}
            if tokens.parent is not None:
                parent[f"{name}/parent"] = torch.from_numpy(pad_integers(tokens.parent, -1))
            made[name] = self.collator.stack(name, arrays, tokens.mask, parent)
        rows = len(next(iter(made.values())).real)
        has_final = self.backbone.spec.readout in made
        final = self.collator.final(arrays, made) if has_final else torch.empty(rows, 0, 0)
        positions = {name: Positions(tokens.mask) for name, tokens in stacks.items()}
        return Batch(made, final, targets(rows, positions, self.backbone.device))


def live_formats(backbone: Backbone, trained: Mapping[str, TrainedNetwork]) -> dict[str, LiveFormat]:
    """Return the format of each network, by name; networks whose stores have the same format share it."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, one in trained.items():
        format = one.record.format
        store = one.record.activations_digest if format.calibrated else ""
        groups.setdefault((format.model_dump_json(), store), []).append(name)
    formats: dict[str, LiveFormat] = {}
    for names in groups.values():
        networks = [trained[name].network for name in names]
        needs = [network.needs(network.config) for network in networks]
        first = trained[names[0]]
        attention, raw = any(need.attention != "none" for need in needs), any(need.raw for need in needs)
        shared = LiveFormat(backbone, first.record.format, first.calibration, attention, raw)
        formats |= dict.fromkeys(names, shared)
    return formats


def targets(
    rows: int, positions: dict[str, Positions], device: str | torch.device, readout: Tensor | None = None
) -> Targets:
    """Return targets without a gold value.

    `readout` [B, nodes] int64 are the positions of a label trie's nodes, in order, in the readout stack.
    """
    trie = None if readout is None else torch.arange(readout.shape[1], device=device).expand(rows, -1)
    return Targets(
        np.arange(rows),
        torch.zeros(rows, dtype=torch.int64, device=device),
        torch.zeros(rows, device=device),
        trie,
        None if trie is None else torch.full_like(trie, -1),
        positions,
        readout,
    )
