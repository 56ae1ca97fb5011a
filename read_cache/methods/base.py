"""The interface of a live method: a change of the backbone itself, trained with the backbone in the loop.

Shape letters: B example, T position of the readout stack, D backbone width, C candidate token.
"""

import abc
import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from read_cache.backbones import Backbone, TokenBatch
from read_cache.errors import UserError
from read_cache.loader.batch import Targets
from read_cache.settings import Settings

METHODS: dict[str, type["LiveMethod"]] = {}
"""Live methods by kind."""


@dataclasses.dataclass(frozen=True)
class LiveBatch:
    """The tokens of some rows of a store, and their targets."""

    tokens: TokenBatch
    targets: Targets

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.targets)


class LiveConfig(Settings):
    """Settings of every live method."""

    shown: ClassVar[tuple[str, ...]] = ()
    """Fields whose values are always part of a method's name."""
    backbone_dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout probability in the backbone's layers, in training."""


class CheckpointingConfig(LiveConfig):
    """Settings of methods that can save memory by computing layers twice."""

    gradient_checkpointing: bool = False
    """Keep only the input of each layer for the backward pass, which computes the layer again: less memory, more time."""


class LiveMethod(nn.Module, abc.ABC):
    """A backbone that a method has changed. The parameters that require a gradient are trained.

    A subclass defines `kind`, `insert` and `save`, and is registered in `METHODS`.
    """

    kind: ClassVar[str]
    Config: ClassVar[type[LiveConfig]] = LiveConfig

    def __init__(self, config: LiveConfig, backbone: Backbone) -> None:
        """Change `backbone.module` in place: each method needs a backbone of its own, in float32."""
        super().__init__()
        self.config, self.backbone, self.readout = config, backbone, backbone.stacks[-1].name
        set_dropout(backbone.module, config.backbone_dropout)
        if getattr(config, "gradient_checkpointing", False):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # transformers has a new name for it
                backbone.module.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        self.module = self.insert(backbone.module)

    @abc.abstractmethod
    def insert(self, module: nn.Module) -> nn.Module:
        """Change the backbone, decide what trains, and return the module that holds all parameters."""

    @abc.abstractmethod
    def save(self, folder: Path) -> None:
        """Write what training changed into a folder, in the method's usual format."""

    def forward(self, batch: LiveBatch, generator: torch.Generator | None = None) -> Tensor:
        """Return y, [B, T, D]: the readout's last hidden state. `generator` draws the dropout; None: no dropout."""
        self.module.train(generator is not None)
        with drawing_from(generator):
            return self.backbone.final(batch.tokens)

    def check_limit(self, limit: int) -> None:
        """Raise UserError if texts of up to `limit` tokens are too long for the method."""

    def head_rows(self, token_ids: Tensor) -> Callable[[], Tensor] | None:
        """Return a function that gives the output head's current rows for `token_ids`, [C, D], times its input's scale.

        The rows are differentiable. None, the default: the method does not change the rows that the store holds.
        """
        return None


def set_dropout(module: nn.Module, rate: float) -> None:
    """Set the dropout probability of all layers of a model."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = rate
        elif isinstance(getattr(part, "dropout", None), int | float):  # T5's attention keeps a number
            part.dropout = rate  # type: ignore[assignment]


@contextlib.contextmanager
def drawing_from(generator: torch.Generator | None) -> Iterator[None]:
    """Seed torch's global random state from `generator` in this block, and restore it afterwards.

    Dropout layers of transformers draw from the global state. Drawn from a learner's generator instead, they repeat
    after a checkpoint, and never depend on what else runs.
    """
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    devices = [generator.device] if generator.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def find_method(kind: str) -> type[LiveMethod]:
    """Return a method by kind. Raises UserError."""
    if kind not in METHODS:
        raise UserError(f"method {kind!r} is unknown; known: {', '.join(METHODS)}")
    return METHODS[kind]


def build_method(kind: str, config: Any, backbone: Backbone, seed: int) -> LiveMethod:
    """Return a method whose new weights depend on the arguments alone. Raises UserError."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return find_method(kind)(config, backbone)
