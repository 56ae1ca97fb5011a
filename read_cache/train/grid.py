"""Repeated options make a grid: one configuration a network."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Literal

from read_cache.errors import UserError
from read_cache.layers import choose_layers
from read_cache.networks.config import BackboneShape, ReadConfig
from read_cache.store.manifest import Manifest

DEFAULT_MEMORY = 4.0
"""GB for parts of a store: what fits is kept, otherwise two windows of parts are held. Batches do not change."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What all networks of a run share."""

    epochs: int = 30
    """At most this many passes over the training split."""
    patience: int = 5
    """A network stops after this many epochs without a better validation metric."""
    batch_size: int = 32
    """Examples in a batch, the same batch for every network."""
    warmup: float = 0.06
    """Share of all steps over which the learning rate rises; then it falls linearly to zero."""
    weight_decay: float = 0.0
    """AdamW's."""
    clip: float = 1.0
    """Largest norm of a network's gradient."""
    order_seed: int = 0
    """Decides the order of the examples, the same for every network."""
    window: int = 4
    """Parts whose examples are shuffled among one another; more mix better and take more memory."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Of the products in training; weights, losses and evaluation are fp32."""
    halving: int = 0
    """Every so many epochs the worse half of the networks still training stops; 0: none is dropped."""

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch_size", "window", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}, expected more than 0")
        for name in ("weight_decay", "order_seed", "halving"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}, expected 0 or more")
        if self.precision not in ("bf16", "fp32"):
            raise UserError(f"--precision {self.precision!r} is none of bf16, fp32")
        if not 0 <= self.warmup <= 1:
            raise UserError(f"--warmup is {self.warmup}, expected a share from 0 to 1")


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """One network of the grid."""

    read: ReadConfig
    learning_rate: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        check_rate_and_seed(self.learning_rate, self.seed)

    @property
    def name(self) -> str:
        """A folder name that tells every network of any grid apart."""
        read = self.read
        parts = [read.cell, str(read.hidden), "" if read.recurrent else "untied"]
        parts += ["" if read.attention == "mean" else f"attention-{read.attention}"]
        parts += ["" if read.aggregate == "last" else read.aggregate]
        parts += ["" if read.standardize else "raw"]
        parts += ["" if read.layers == "all" else f"layers{read.layers}"]
        parts += ["zero" if read.initial_state == "zero" else ""]
        parts += ["" if read.embedding_gain == 1 else f"gain{_short(read.embedding_gain)}"]
        parts += [f"matching{read.matching}" if read.matching else ""]
        parts += ["" if read.residual == 1 else f"residual{_short(read.residual)}"]
        parts += [f"dropout{read.dropout}" if read.dropout else "", f"lr{self.learning_rate}", f"seed{self.seed}"]
        return "-".join(part for part in parts if part)


def _short(value: float) -> str:
    """4 for 4.0, and every digit of what is not whole."""
    return repr(float(value)).removesuffix(".0")


def grid(reads: Sequence[ReadConfig], learning_rates: Sequence[float], seeds: Sequence[int]) -> list[NetworkConfig]:
    """The product, each network once, in the order of the options."""
    networks = [NetworkConfig(*choice) for choice in itertools.product(reads, learning_rates, seeds)]
    return list(dict.fromkeys(networks))


def backbone_shape(manifest: Manifest, layers: str = "all") -> BackboneShape:
    """What a network that runs over these layers of a store takes from its backbone. Raises UserError."""
    backbone, form = manifest.backbone, manifest.form
    return BackboneShape(
        backbone.width,
        choose_layers(layers, form.encoder_layers, "the store's encoder"),
        choose_layers(layers, form.decoder_layers, "the store's decoder"),
        backbone.heads,
    )


def check_rate_and_seed(learning_rate: float, seed: int) -> None:
    """UserError where nothing can be trained with them."""
    if not 0 < learning_rate < 1:
        raise UserError(f"--lr is {learning_rate}, expected more than 0 and under 1")
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed is {seed}, expected 0 or more and under 2**63")


def check_network(network: ReadConfig, manifest: Manifest) -> None:
    """UserError where a network wants layers or attention weights that the store does not hold."""
    backbone_shape(manifest, network.layers)
    if network.attention not in ("none", manifest.form.attention):
        raise UserError(
            f"the store holds attention {manifest.form.attention!r}, the network wants {network.attention!r}: "
            f"train with --attention {manifest.form.attention}, or extract with --attention {network.attention}"
        )
