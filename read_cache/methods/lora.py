"""LoRA: low-rank changes of the attention's queries and values, by peft, the backbone frozen."""

import warnings
from pathlib import Path
from typing import ClassVar

from pydantic import Field
from torch import nn

from read_cache.errors import UserError
from read_cache.methods.base import LiveConfig, LiveMethod

TARGETS = {"t5": ("q", "v"), "bert": ("query", "value"), "llama": ("q_proj", "v_proj"), "gpt2": ("c_attn",)}
"""By family: names of the linear layers of queries and values; GPT-2 has one for queries, keys and values."""


class LoraConfig(LiveConfig):
    """Settings of LoRA."""

    shown: ClassVar[tuple[str, ...]] = ("rank",)
    rank: int = Field(8, ge=1)
    """Rank of each change."""
    alpha: float = Field(16, gt=0)
    """The change is multiplied by alpha / rank."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout probability on the input of each change, in training."""
    targets: str = ""
    """Names of the linear layers that are changed, separated by spaces; by default those of queries and values."""


class Lora(LiveMethod):
    """Train W + (alpha / rank) B A in place of each chosen weight W; B starts at zero."""

    kind = "lora"
    Config = LoraConfig
    config: LoraConfig

    def insert(self, module: nn.Module) -> nn.Module:
        """Insert the changes; they alone train. Raises UserError without peft, or if no layer has one of the names."""
        try:
            import peft
        except ImportError as error:
            raise UserError("the method lora uses peft, which is not installed: pip install peft") from error
        names = self.config.targets.split() or list(TARGETS.get(self.backbone.family, ()))
        settings = peft.LoraConfig(
            r=self.config.rank,
            lora_alpha=self.config.alpha,
            lora_dropout=self.config.dropout,
            target_modules=names,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft calls what transformers is about to rename
            try:
                adapted: nn.Module = peft.get_peft_model(module, settings)
            except ValueError as error:
                raise UserError(
                    f"targets are {names}, but no linear layer of {self.backbone.name} has one of these names: set "
                    "targets to the names of its linear layers"
                ) from error
        return adapted

    def save(self, folder: Path) -> None:
        """Write a folder that peft opens."""
        self.module.save_pretrained(str(folder), save_embedding_layers=False)  # type: ignore[operator]
        (folder / "README.md").unlink()  # peft's card is an empty form
