"""The positions that each position of a tree attends to. Shape letters: B example, T position."""

import torch
from torch import Tensor


def ancestors(parent_BT: Tensor) -> Tensor:
    """Return [B, T, T] bool, [node, key]: True where the key is the node itself or one of its ancestors.

    `parent_BT` is int64, -1 for roots and padding.
    """
    nodes = torch.arange(parent_BT.shape[1], device=parent_BT.device)
    reached, current = (nodes[:, None] == nodes).expand(len(parent_BT), -1, -1), parent_BT
    while bool((current >= 0).any()):
        reached = reached | (current[..., None] == nodes)
        current = parent_BT.gather(1, current.clamp(min=0)).where(current >= 0, -1)
    return reached
