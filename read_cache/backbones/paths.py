"""A decoder over a tree of positions: run as its root-to-leaf paths, then gathered by position ("node").

Shape letters: P path, W position in a path, B example, T node of an example, H head, S encoder position.
"""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from read_cache.backbones.tokens import StackTokens


def node_paths(parent: np.ndarray) -> list[np.ndarray]:
    """Return the nodes from the root to each leaf, root first; leaves in ascending order."""
    paths = []
    for leaf in sorted(set(range(len(parent))) - set(parent.tolist())):
        path = [leaf]
        while parent[path[-1]] >= 0:
            path.append(int(parent[path[-1]]))
        paths.append(np.array(path[::-1]))
    return paths


@dataclasses.dataclass(frozen=True)
class Paths:
    """The paths of a batch of trees, and where each node is in them."""

    tokens: StackTokens
    """[P, W]."""
    example: Tensor | None
    """[P] int64: the example each path is of; None if each example is a single path, in order."""
    row: Tensor
    """[B, T] int64: the path that a node is taken from, the first that holds it. Padding: 0."""
    position: Tensor
    """[B, T] int64: its position in that path. Padding: 0."""
    ancestors: tuple[Tensor, ...]
    """(b, t, a, p, i, j) [pairs] int64 each: node t of example b attends to a as i does to j in path p."""

    @staticmethod
    def of(tokens: StackTokens, attention: bool, padding: int = 0) -> "Paths":
        """Lay a batch of trees out as paths, padded by a token. Without `attention`, `ancestors` is left empty."""
        ids, device = tokens.ids, tokens.ids.device
        if tokens.parent is None or all(_is_chain(parent) for parent in tokens.parent):
            empty = torch.empty(0, dtype=torch.int64)
            return Paths(StackTokens(ids, tokens.mask), None, empty, empty, ())
        paths = [(example, path) for example, parent in enumerate(tokens.parent) for path in node_paths(parent)]
        row, position = np.zeros((2, *ids.shape), dtype=np.int64)
        placed = np.zeros(ids.shape, dtype=bool)
        pairs: list[np.ndarray] = []
        for number, (example, path) in enumerate(paths):
            for depth, node in enumerate(path.tolist()):
                if not placed[example, node]:
                    placed[example, node] = True
                    row[example, node], position[example, node] = number, depth
                    if attention:
                        earlier = np.arange(depth + 1)
                        fixed = [np.full(depth + 1, value) for value in (example, node, number, depth)]
                        pairs.append(np.stack([fixed[0], fixed[1], path[: depth + 1], fixed[2], fixed[3], earlier]))
        of_path = torch.tensor([example for example, _ in paths], device=device)
        nodes = StackTokens.pad([path for _, path in paths]).to(device)
        path_ids = ids.index_select(0, of_path).gather(1, nodes.ids)
        return Paths(
            StackTokens(path_ids.where(nodes.mask, padding), nodes.mask),
            of_path,
            torch.from_numpy(row).to(device),
            torch.from_numpy(position).to(device),
            tuple(torch.from_numpy(np.concatenate(pairs, axis=1)).to(device)) if pairs else (),
        )

    def of_example(self, values: Tensor) -> Tensor:
        """Return [P, ...]: each path's example of [B, ...]."""
        return values if self.example is None else values.index_select(0, self.example)

    def states(self, hidden_PWD: Tensor) -> Tensor:
        """Return states by node, [B, T, D]."""
        return hidden_PWD if self.example is None else hidden_PWD[self.row, self.position]

    def self_attention(self, weights_PHWW: Tensor) -> Tensor:
        """Return attention weights between the nodes of each example, [B, H, T, T]; zero off a node's own path."""
        if self.example is None:
            return weights_PHWW
        b, t, a, p, i, j = self.ancestors
        nodes = self.row.shape[1]
        by_node = weights_PHWW.new_zeros(len(self.row), nodes, nodes, weights_PHWW.shape[1])
        return by_node.index_put((b, t, a), weights_PHWW.permute(0, 2, 3, 1)[p, i, j]).permute(0, 3, 1, 2)

    def cross_attention(self, weights_PHWS: Tensor) -> Tensor:
        """Return attention weights from nodes to the encoder, [B, H, T, S]."""
        if self.example is None:
            return weights_PHWS
        return weights_PHWS.transpose(1, 2)[self.row, self.position].transpose(1, 2)


def _is_chain(parent: np.ndarray) -> bool:
    return np.array_equal(parent, np.arange(-1, len(parent) - 1))
