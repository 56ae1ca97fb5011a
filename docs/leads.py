"""Changes of READ that might bring it nearer to fine-tuning: each trained on the same stores, with two seeds.

    python docs/leads.py STORE... [--out FOLDER]

It prints the mean of each change on validation and test together, and what it gains over READ without changes. Each
change is a network of its own, or settings: see extending.md. A run that is interrupted continues.
"""

import argparse
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import read_cache
from read_cache.config import Place, RunConfig
from read_cache.networks.base import NETWORKS
from read_cache.networks.inputs import WholeStates, dropout
from read_cache.networks.read import CELLS, Read, ReadConfig, ReadStack
from read_cache.networks.read_matching import ReadMatching, ReadMatchingStack
from read_cache.scoring.choose import HEADS
from read_cache.scoring.evaluator import joint_metric
from read_cache.scoring.heads import ClassifierHead, HeadSettings
from read_cache.store.folder import StoreFolder
from read_cache.training.from_store import FromStore
from read_cache.training.learner import Learner
from read_cache.training.loop import evaluate_learners
from read_cache.training.network_config import NetworkConfig

RUN = {"lr": 5e-4, "seed": [0, 1], "epochs": 8, "patience": 8, "ema": 0.99}


class RowDropoutStack(ReadStack):
    """One mask for each row and channel, at all positions and layers."""

    def dropped(self, whole, generator):
        phi = whole.states()
        return WholeStates(phi * dropout(torch.ones(1, phi.shape[1], 1, phi.shape[3]), 0.3, generator))


class LayerDropoutStack(ReadStack):
    """The states of a layer are hidden with probability 0.1, for the whole batch; those of the embeddings never."""

    def dropped(self, whole, generator):
        mask = dropout(torch.ones(len(whole.states()), 1, 1, 1), 0.1, generator)
        mask[0] = 1
        return WholeStates(whole.states() * mask)


class ZeroJoinerStack(ReadStack):
    """B, the Joiner's weights of other tokens, is zero at first."""

    def __init__(self, config, shape, cross):
        super().__init__(config, shape, cross)
        nn.init.zeros_(self.B)


def minimal(from_input, from_state, state):
    """A minimal gated unit: one gate in place of a GRU's two."""
    gate_x, new_x = from_input.chunk(2, dim=-1)
    gate_h, new_h = from_state.chunk(2, dim=-1)
    gate = torch.sigmoid(gate_x + gate_h)
    return state[0] + gate * (torch.tanh(new_x + gate * new_h) - state[0]), state[1]


class MinimalConfig(ReadConfig):
    cell: Literal["minimal"] = "minimal"


class MatchingEverywhereStack(ReadMatchingStack):
    """The weights of like tokens are added to the attention weights of every layer too, by a learned factor."""

    def __init__(self, config, shape, cross):
        super().__init__(config, shape, cross)
        self.share = nn.Parameter(torch.zeros(len(shape.layers)))

    def embedded(self, whole, phi, real_BS):
        self.like = self.matching.likeness(whole, real_BS)
        return super().embedded(whole, phi, real_BS)

    def sigma(self, kind, stack, layer):
        weights = super().sigma(kind, stack, layer)
        return weights + (self.share[layer] * self.like).to(weights.dtype)


class AllLayers(Read):
    """The head sees a learned mixture of all layers' normalised states too."""

    def __init__(self, config, shape):
        super().__init__(config, shape)
        self.mixture = nn.Parameter(torch.zeros(len(shape.stacks[-1].layers) + 1))

    def corrected(self, batch, context, generator=None):
        states = batch.stacks[self.readout].whole_states()
        return super().corrected(batch, context, generator) + torch.einsum("l,lbtd->btd", self.mixture, states)


class SmoothHead(ClassifierHead):
    """Label smoothing of 0.1 in training."""

    def __init__(self, settings, width, task):
        super().__init__(settings, width, len(task.labels))

    def loss(self, y_BTD, targets, generator=None):
        logp = self.outputs(y_BTD, targets, generator).log_softmax(-1)
        return F.nll_loss(logp, targets.label) * 0.9 - 0.1 * logp.mean()


def register(kind, base=Read, **members):
    """Make a network from another by some other members."""
    NETWORKS[kind] = type(kind, (base,), {"kind": kind, **members})


CELLS["minimal"] = (minimal, 2)
HEADS["smooth"] = SmoothHead
register("row_dropout", Stack=RowDropoutStack)
register("layer_dropout", Stack=LayerDropoutStack)
register("zero_joiner", Stack=ZeroJoinerStack)
register("minimal_gates", Config=MinimalConfig)
register("matching_everywhere", ReadMatching, Stack=MatchingEverywhereStack)
register("all_layers", AllLayers)

READ = {"network": "read", "cell": "rnn"}
LEADS = {
    "READ, RNN-128": READ,
    "without the moving average of weights": READ | {"ema": 0},
    "weight decay 0.1": READ | {"weight_decay": 0.1},
    "label smoothing 0.1": READ | {"head": {"kind": "smooth"}},
    "dropout 0.3, one mask a row and channel": READ | {"network": "row_dropout"},
    "dropout 0.1 of whole layers": READ | {"network": "layer_dropout"},
    "no attention weights": READ | {"attention": "none"},
    "the Joiner's B is zero at first": READ | {"network": "zero_joiner"},
    "the head sees a learned sum of all layers too": READ | {"network": "all_layers"},
    "attentive pooling": READ | {"head": {"attentive": True}},
    "a GRU": {"network": "read", "cell": "gru"},
    "minimal gated units": {"network": "minimal_gates"},
    "matching at h_0": READ | {"network": "read_matching"},
    "matching at h_0 and in every layer": READ | {"network": "matching_everywhere"},
    "attentive pooling, a GRU": {"network": "read", "cell": "gru", "head": {"attentive": True}},
    "attentive pooling, minimal gated units": {"network": "minimal_gates", "head": {"attentive": True}},
    "attentive pooling, matching at h_0": READ | {"network": "read_matching", "head": {"attentive": True}},
}


def train_shared(stores, seed):
    """Train one recurrence for all stores, with a U and a head for each; return each store's score.

    A step has a batch of one store, drawn in proportion to their batches; the best epoch of each store counts.
    """
    run, learners, splits = RunConfig(epochs=RUN["epochs"]), [], []
    for store in stores:
        head = HeadSettings(pooling="apart" if is_pair(store) else "mean")
        config = NetworkConfig(kind="read", settings=ReadConfig(cell="rnn"), head=head, seed=seed)
        prepared = FromStore(StoreFolder(store)).prepare([config], run, Place(memory=8))
        learners += prepared.learners
        splits.append(prepared.splits)
    shared = dict(learners[0].model.network.stacks.named_parameters())
    for learner in learners[1:]:
        for name, module in learner.model.network.stacks.named_modules():
            for own in dict(module.named_parameters(recurse=False)):
                setattr(module, own, shared[f"{name}.{own}"])
    weights = list({id(weight): weight for one in learners for weight in one.model.parameters()}.values())
    turns = [number for number, own in enumerate(splits) for _ in range(len(own["train"]))]
    optimizer, steps = torch.optim.AdamW(weights, weight_decay=0), len(turns) * run.epochs
    factor = Learner(learners[0].model, learners[0].config, run, steps).rate_factor
    best = [(-1.0, 0.0)] * len(stores)
    for epoch in range(run.epochs):
        batches = [own["train"].epoch(seed, epoch) for own in splits]
        for step, turn in enumerate(np.random.default_rng((seed, epoch)).permutation(turns), epoch * len(turns)):
            learners[turn].model.train()(next(batches[turn]), learners[turn].generator).backward()
            torch.nn.utils.clip_grad_norm_(weights, run.clip)
            for group in optimizer.param_groups:
                group["lr"] = RUN["lr"] * factor(step)
            optimizer.step()
            optimizer.zero_grad()
        for number, (learner, own) in enumerate(zip(learners, splits, strict=True)):
            found = [evaluate_learners([learner], own[name])[0] for name in ("validation", "test")]
            metric = own["train"].split.manifest.task.metric
            best[number] = max(best[number], (found[0].metric, joint_metric(metric, found)))
    return [score for _, score in best]


def is_pair(store):
    """Return True if the rows of a store are pairs of texts."""
    return read_cache.open_store(store).manifest.task.template.count("{") > 1


def main() -> None:
    """Train every lead on every store, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stores", nargs="+", help="sealed stores of an encoder, of all positions")
    parser.add_argument("--out", default="runs/leads", help="folder of the results")
    arguments, first = parser.parse_args(), {}
    print("| change |", " | ".join(arguments.stores), "|", flush=True)
    for number, (name, settings) in enumerate(LEADS.items()):
        cells = []
        for store in arguments.stores:
            head = {"pooling": "apart" if is_pair(store) else "mean"} | settings.get("head", {})
            own = RUN | settings | {"head": head}
            results = read_cache.train(store, f"{arguments.out}/{number}", **own).results
            score = sum(result.validation_and_test for result in results) / len(results)
            cells.append(f"{score:.1f} ({score - first.setdefault(store, score):+.1f})")
        print("|", name, "|", " | ".join(cells), "|", flush=True)
    scores = np.mean([train_shared(arguments.stores, seed) for seed in RUN["seed"]], axis=0)
    cells = [
        f"{score:.1f} ({score - first[store]:+.1f})" for store, score in zip(arguments.stores, scores, strict=True)
    ]
    print("| one recurrence for all tasks, without the moving average |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
