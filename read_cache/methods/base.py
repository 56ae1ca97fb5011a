"""The interface of a live method: a change of the backbone itself, trained with the backbone in the loop.

Shape letters: B example, T position of the readout stack, D backbone width, C candidate token.
"""

import abc
import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from read_cache.backbones import Backbone, TokenBatch
from read_cache.errors import UserError
from read_cache.loader.batch import Targets
from read_cache.networks.base import Needs
from read_cache.scoring.evaluator import Batches
from read_cache.scoring.heads import Rows
from read_cache.settings import Settings

METHODS: dict[str, type["LiveMethod"]] = {}
"""Live methods by kind."""


@dataclasses.dataclass(frozen=True)
class LiveBatch:
    """The tokens of some rows of a store, and their targets."""

    tokens: TokenBatch
    targets: Targets

    def __len__(self) -> int:
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
    """Keep only each layer's input for the backward pass, and compute the layer again there: less memory, more time."""


class LiveMethod(nn.Module, abc.ABC):
    """A backbone that a method has changed. The parameters that require a gradient after `insert` are trained.

    A subclass defines `kind` and `insert`, and is registered in `METHODS`.
    """

    kind: ClassVar[str]
    Config: ClassVar[type[LiveConfig]] = LiveConfig
    WEIGHTS = "weights.safetensors"
    """File of the trained weights, by their names in `module`."""

    def __init__(self, config: LiveConfig, backbone: Backbone) -> None:
        """Change `backbone.module` in place: each method needs a backbone of its own, in float32."""
        super().__init__()
        self.config, self.backbone, self.readout = config, backbone, backbone.stacks[-1].name
        set_dropout(backbone.module, config.backbone_dropout)
        if getattr(config, "gradient_checkpointing", False):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # transformers has a new name for it
                backbone.module.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        self.module = self.insert(backbone.module.requires_grad_(False)).to(backbone.device)
        self.trained = tuple(name for name, weight in self.module.named_parameters() if weight.requires_grad)
        """Names in `module` of the parameters that train; `end_epoch` may freeze some."""

    @abc.abstractmethod
    def insert(self, module: nn.Module) -> nn.Module:
        """Change the frozen backbone, decide what trains, and return the module that holds all parameters.

        The module is a model of transformers or wraps one: its `generate` is that of the method.
        """

    def end_epoch(self, epoch: int, epochs: int, batches: Batches) -> None:
        """Change the method between two epochs; by default nothing changes.

        A parameter whose `requires_grad` becomes False is not trained any more, and its optimiser state is dropped.
        `get_extra_state` must return all other state that changes, as a tensor. A checkpoint keeps this tensor and
        gives it to `set_extra_state`.

        Args:
            epoch: number of finished epochs.
            epochs: largest number of epochs.
            batches: batches of the training split.
        """

    def save(self, folder: Path) -> None:
        """Write what training changed into a folder; by default the trained weights."""
        weights = dict(self.module.named_parameters())
        save_file({name: weights[name].detach().cpu().contiguous() for name in self.trained}, folder / self.WEIGHTS)

    def load(self, folder: Path) -> None:
        """Load the files of `save`. `load_method` turns errors of files that do not fit into a UserError."""
        weights = load_file(folder / self.WEIGHTS)
        if differing := sorted(weights.keys() ^ set(self.trained)):
            raise ValueError(f"{self.WEIGHTS} does not have the method's weights, such as {differing[0]}")
        self.module.load_state_dict(weights, strict=False)

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Return the arrays of a store that the method reads: none."""
        return Needs()

    def forward(self, batch: LiveBatch, generator: torch.Generator | None = None) -> Tensor:
        """Return y, [B, T, D]: the readout's last hidden state. `generator` draws the dropout; None: no dropout."""
        self.module.train(generator is not None)
        with drawing_from(generator):
            return self.backbone.final(batch.tokens)

    def check_limit(self, limit: int) -> None:
        """Raise UserError if texts of up to `limit` tokens are too long for the method."""

    def head_rows(self, token_ids: Tensor) -> Rows:
        """Return the rows of the output head for `token_ids`, [C, D], times its input's scale.

        By default they are the backbone's. A method that trains the head returns a function that returns the current
        rows, with gradients, alone or with the head's biases, [C].
        """
        return self.backbone.head_rows(token_ids).to(self.backbone.device)


def set_dropout(module: nn.Module, rate: float) -> None:
    """Set the dropout probability of all layers of a model."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = rate
        for name in ("dropout", "attention_dropout"):  # numbers in the attention modules of T5 and Llama
            if isinstance(getattr(part, name, None), int | float):
                setattr(part, name, rate)


@contextlib.contextmanager
def drawing_from(generator: torch.Generator | None) -> Iterator[None]:
    """Seed torch's global random state from `generator` in this block, and restore it afterwards.

    Dropout layers of transformers draw from the global state. Seeded from a learner's generator, they draw the same
    after a checkpoint, whatever else runs.
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
