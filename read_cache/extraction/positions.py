"""Stores of fewer positions: the states at the readout positions, or pooled states.

Shape letters: B example, S position of a stack, P stored entry of a stack, D width.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from read_cache.backbones.base import StackTrace
from read_cache.store.layout import pad_integers, plan_slices
from read_cache.store.schema import ALL_TOKENS, FIRST_TOKEN


def state_positions(kind: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return an example's plan array `readout` or `pooled`, [entries] int64. `arrays` are its other arrays by name."""
    if kind == "readout":
        return np.flatnonzero((arrays["trie"] >= 0) | (arrays["target"] >= 0))
    texts = np.unique(arrays.get("segment", [-1]))
    return np.array([FIRST_TOKEN, ALL_TOKENS, *texts[texts >= 0]])


def at_readout(outputs: StackTrace, plan: Mapping[str, np.ndarray], stack: str, rows: Sequence[int]) -> StackTrace:
    """Return the outputs of some examples at their readout positions, padded with the first of them."""
    index_BP = torch.from_numpy(pad_integers(plan_slices(plan, f"{stack}/readout", rows, "readout"), 0))

    def gathered(values_BSD: Tensor) -> Tensor:
        index = index_BP.to(values_BSD.device)[..., None].expand(-1, -1, values_BSD.shape[-1])
        return values_BSD.gather(1, index)

    raw_last = None if outputs.raw_last is None else gathered(outputs.raw_last)
    return dataclasses.replace(outputs, hidden=[gathered(hidden) for hidden in outputs.hidden], raw_last=raw_last)


def pooling_weights(plan: Mapping[str, np.ndarray], stack: str, rows: Sequence[int], real_BS: Tensor) -> Tensor:
    """Return each token's share of the pooled states of some examples, [B, P, S] float32."""
    entry_BP1 = pad_integers(plan_slices(plan, f"{stack}/pooled", rows, "pooled"), FIRST_TOKEN)[..., None]
    real_B1S, first_S = real_BS.cpu().numpy()[:, None], np.arange(real_BS.shape[1]) == 0
    mask_BPS = np.where(entry_BP1 == ALL_TOKENS, real_B1S, (entry_BP1 == FIRST_TOKEN) & first_S)
    if f"{stack}/segment" in plan:
        segment_BS = pad_integers(plan_slices(plan, f"{stack}/segment", rows), -1)
        mask_BPS |= (entry_BP1 >= 0) & (entry_BP1 == segment_BS[:, None])
    weights_BPS = mask_BPS / mask_BPS.sum(-1, keepdims=True, dtype=np.float32)
    return torch.from_numpy(weights_BPS.astype(np.float32)).to(real_BS.device)
