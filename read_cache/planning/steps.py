"""Seconds of stage two: padding a batch, a network's step on it, and its evaluation, timed on random activations."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from read_cache.loader.batch import Statistics
from read_cache.loader.collate import Collator, ExampleArrays, as_tensor, pad
from read_cache.networks.config import ReadConfig
from read_cache.planning.batches import Batches
from read_cache.planning.machine import Record
from read_cache.planning.passes import any_calibration
from read_cache.planning.rows import SplitRows
from read_cache.planning.timing import fit, median_seconds
from read_cache.scoring.heads import Head
from read_cache.store.layout import Layout
from read_cache.store.manifest import Manifest
from read_cache.store.schema import activation_arrays
from read_cache.train.grid import NetworkConfig, TrainConfig, backbone_shape
from read_cache.train.learner import Learner
from read_cache.train.stack import Stack, is_stacked, steppers
from read_cache.trie import LabelTrie

MANY = 3
"""Networks beside one another, to tell what they share from what each takes."""
STEPS = 1000


def step_key(manifest: Manifest, read: ReadConfig, run: TrainConfig, longest: int) -> Record:
    """What these times depend on, besides the machine."""
    backbone = {name: getattr(manifest.backbone, name) for name in ("width", "heads")}
    stored = dataclasses.asdict(manifest.form)
    running = {"batch_size": run.batch_size, "precision": run.precision, "longest": longest, "head": manifest.head}
    return {**backbone, **stored, **dataclasses.asdict(read), **running}


def measure_steps(
    manifest: Manifest, read: ReadConfig, run: TrainConfig, vocabulary: int, longest: int, device: str
) -> Record:
    """By `STEP_FEATURES`, seconds of each kind of work; and the bytes that a step keeps for its gradients, a token.

    `one` is a batch made ready and one network on it, `more` every further network.
    """
    cases = [(longest, 1), (longest // 2, 1), (longest // 8, 1), (longest // 4, 8)]
    features, seconds = [], dict[str, list[float]]()
    for tokens, nodes in cases:
        case = _Case(manifest, read, run, vocabulary, tokens, nodes, device)
        features.append(case.features())
        for name, work in case.work().items():
            seconds.setdefault(name, []).append(median_seconds(work))
        if tokens == longest:
            saved = case.saved_bytes() / (run.batch_size * tokens)
    for kind in ("train", "evaluate"):
        one, many = seconds[f"{kind} one"], seconds.pop(f"{kind} many")
        seconds[f"{kind} more"] = [max((b - a) / (MANY - 1), 0.01 * a) for a, b in zip(one, many, strict=True)]
    table = np.concatenate(features)
    return {name: fit(table, taken) for name, taken in seconds.items()} | {"saved_bytes": saved}


class _Case:
    """One batch of random activations, and networks."""

    def __init__(
        self,
        manifest: Manifest,
        read: ReadConfig,
        run: TrainConfig,
        vocabulary: int,
        tokens: int,
        nodes: int,
        device: str,
    ) -> None:
        rng, form, width = np.random.default_rng(0), manifest.form, manifest.backbone.width
        self.device = device
        self.manifest, self.read, self.run = manifest, read, run
        self.tokens, self.nodes = tokens, nodes
        trie = LabelTrie(((2, 1), (3, 1))) if manifest.head == "labels" else None
        candidates = trie.tokens if trie else np.arange(vocabulary)
        weight = torch.from_numpy(rng.standard_normal((len(candidates), width), dtype=np.float32) * 0.02)
        self.head = Head(weight.to(device), trie)
        self.collator = Collator(candidates, form, any_calibration(form, width), device)
        targets = np.full(nodes, 2, np.int32), np.full(nodes, 0 if trie else -1, np.int32)
        self.examples = [
            ExampleArrays(self._activations(rng), node_trie=targets[1], node_target=targets[0])
            for _ in range(run.batch_size)
        ]
        self.padded = pad(self.examples)

    def _activations(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One example's, in the dtypes of the store."""
        form, found = self.manifest.form, {}
        extents = {"token": self.tokens, "pair": self.tokens**2, "node": self.nodes}
        extents |= {"node_pair": self.nodes**2, "cross": self.nodes * self.tokens, "component": form.rank}
        extents |= {"width": self.manifest.backbone.width, "head": self.manifest.backbone.heads}
        for spec in activation_arrays(form):
            shape = (len(form.layers(spec.name)), *(extents[axis] for axis in spec.axes[1:]))
            values = rng.random(shape, dtype=np.float32)
            if spec.dtype == "uint16":
                found[spec.name] = (values.view(np.uint32) >> 16).astype(np.uint16)  # the bits of bfloat16
            else:
                found[spec.name] = (values * (100 if "int8" in spec.dtype else 1)).astype(spec.dtype)
        return found

    def features(self) -> np.ndarray:
        """[1, 4]"""
        rows = self.run.batch_size
        extents = np.full(rows, self.tokens, np.int32), np.full(rows, self.nodes, np.int32)
        split = SplitRows(Layout(*extents, np.array([0, rows])))
        return Batches.of(split, [np.arange(rows)]).step_features()

    def work(self) -> dict[str, Callable[[], object]]:
        """What is timed, by name."""
        found: dict[str, Callable[[], object]] = {"pad": lambda: pad(self.examples)}
        for name, count in (("one", 1), ("many", MANY)):
            learners = self.learners(count)
            stepping = steppers(learners, is_stacked("auto", self.device))
            found[f"train {name}"] = partial(self.train, stepping, None)
            if count == 1 and self.device != "cpu":
                found["train from the device"] = partial(self.train, stepping, self.examples_on_device())
            found[f"evaluate {name}"] = partial(self.evaluate, learners)
        return found

    def learners(self, count: int) -> list[Learner]:
        """Networks that share their statistics, as those of a run do."""
        shape = backbone_shape(self.manifest, self.read.layers)
        sizes = {"encoder": shape.encoder_layers, "decoder": shape.decoder_layers}
        both = []
        for layers in sizes.values():
            ones = torch.ones(len(layers) + 1, shape.width, device=self.device)
            both.append(Statistics(torch.zeros_like(ones), ones, layers))
        found = [Learner(NetworkConfig(self.read, seed=k), self.run, shape, STEPS, self.device) for k in range(count)]
        for learner in found:
            learner.network.set_statistics(*both)
        return found

    def examples_on_device(self) -> list[ExampleArrays]:
        """As they lie where a store is held on the device."""
        return [
            dataclasses.replace(
                example,
                activations={k: as_tensor(values).to(self.device) for k, values in example.activations.items()},
            )
            for example in self.examples
        ]

    def train(self, stepping: list[Learner | Stack], examples: list[ExampleArrays] | None) -> None:
        """A step of every network on a padded batch, or on examples that are padded on the device."""
        batch = self.collator.batch(pad(examples) if examples else self.padded)
        for stepper in stepping:
            stepper.train_step(batch, self.head)

    @torch.inference_mode()
    def evaluate(self, learners: list[Learner]) -> float:
        """The scores of every network."""
        batch = self.collator.batch(self.padded)
        return sum(float(self.head.scores(learner.network(batch), batch).loss.sum()) for learner in learners)

    def saved_bytes(self) -> int:
        """What a step keeps for the backward pass, each storage once."""
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> Any:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        learner, batch = self.learners(1)[0], self.collator.batch(self.padded)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), learner.autocast(batch):
            self.head.loss(learner.network(batch, learner.generator).float(), batch)
        return sum(kept.values())
