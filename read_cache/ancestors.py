"""The positions that each position of a tree attends to. Shape letters: B example, T position."""

import torch
from torch import Tensor


def ancestors(parent_BT: Tensor) -> Tensor:
    """Return [B, T, T] bool, [node, key]: True where the key is the node itself or one of its ancestors.

    `parent_BT` is int64, -1 for roots and padding.
    """
    size = parent_BT.shape[1]
    nodes = torch.arange(size, device=parent_BT.device)
    reached = (nodes[:, None] == nodes) | (parent_BT[..., None] == nodes)
    for _ in range((size - 1).bit_length()):  # each product doubles the steps taken; a test of the end would wait
        paths = reached.float()
        reached = paths @ paths > 0
    return reached
