"""From corrected states to logits, loss and label probabilities, by the backbone's own head rows."""

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from read_cache.loader.batch import Batch
from read_cache.store.reader import StoreReader
from read_cache.trie import LabelTrie


@dataclasses.dataclass(frozen=True)
class Scores:
    """What a batch says of each example, [B] each."""

    predicted: Tensor
    """The most probable label id (int64); for open targets the share of tokens that are right (float32)."""
    loss: Tensor
    """Negative log-likelihood of the gold label or target, nats an example."""
    probabilities: Tensor | None
    """[B, labels] for closed labels, None for open targets."""


class Head:
    """The frozen output head over candidate tokens: all of them, or those that tell the labels apart."""

    def __init__(self, weight_CD: Tensor, trie: LabelTrie | None) -> None:
        self.weight, self.trie = weight_CD, trie
        if trie is not None:
            # The extra last row allows every token: padding has node -1, and a softmax over nothing would be NaN.
            everything = np.ones((1, len(trie.tokens)), dtype=bool)
            self.allowed = torch.from_numpy(np.concatenate([trie.allowed, everything])).to(weight_CD.device)
            paths = torch.zeros(len(trie.paths), *trie.allowed.shape)
            for label, path in enumerate(trie.paths):
                for node, token in path:
                    paths[label, node, token] = 1
            self.paths_LTC = paths.to(weight_CD.device)

    @staticmethod
    def of(store: StoreReader, device: str = "cpu") -> "Head":
        """The head a store carries."""
        return Head(torch.from_numpy(store.head[1]).to(device), store.manifest.trie)

    def log_probabilities(self, y_BTD: Tensor, batch: Batch) -> Tensor:
        """[B, T, C]: log-softmax over the tokens that may follow each node; -inf for the others."""
        logits = F.linear(y_BTD, self.weight)
        if self.trie is not None:
            logits = logits.masked_fill(~self.allowed[batch.node_trie], float("-inf"))
        return logits.log_softmax(dim=-1)

    def loss(self, y_BTD: Tensor, batch: Batch) -> Tensor:
        """Negative log-likelihood of the gold path: nats an example for labels, nats a token for open targets."""
        gold = self._gold(self.log_probabilities(y_BTD, batch), batch)
        return -gold.sum() / (len(y_BTD) if self.trie is not None else (batch.node_target >= 0).sum())

    def scores(self, y_BTD: Tensor, batch: Batch) -> Scores:
        """Predictions of a batch that holds every node of the trie, or the whole target path."""
        logp = self.log_probabilities(y_BTD, batch)
        loss = -self._gold(logp, batch).sum(dim=1)
        if self.trie is None:
            real = batch.node_target >= 0
            right = (logp.argmax(-1) == batch.node_target) & real
            return Scores(right.sum(1) / real.sum(1), loss, None)
        # Evaluation rows hold the trie's nodes in order; 0 * -inf would be NaN, so what is not allowed becomes 0.
        label_logp = torch.einsum("btc,ltc->bl", logp.masked_fill(logp == float("-inf"), 0), self.paths_LTC)
        return Scores(label_logp.argmax(-1), loss, label_logp.exp())

    def _gold(self, logp_BTC: Tensor, batch: Batch) -> Tensor:
        """[B, T]: the log-probability of the gold token; 0 off the gold path."""
        target = batch.node_target
        return logp_BTC.gather(-1, target.clamp(min=0)[..., None])[..., 0].masked_fill(target < 0, 0)
