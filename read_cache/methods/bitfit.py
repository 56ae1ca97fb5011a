"""BitFit: the biases train, the backbone's weights are frozen (Ben Zaken et al. 2022)."""

from typing import ClassVar, Literal

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from read_cache.methods.base import LiveConfig, LiveMethod
from read_cache.scoring.heads import Rows


class BitfitConfig(LiveConfig):
    """Settings of BitFit."""

    shown: ClassVar[tuple[str, ...]] = ("linears",)
    linears: Literal["all", "attention"] = "all"
    """Linear layers whose biases train: all (the LM head included) or attention. Norms train in both cases."""


class Bitfit(LiveMethod):
    """Train the biases of linear layers and norms.

    A linear layer without a bias gets one of zeros, and a norm without a bias (T5, Llama) trains its weight.
    """

    kind = "bitfit"
    Config = BitfitConfig
    config: BitfitConfig

    def insert(self, module: nn.Module) -> nn.Module:
        for name, part in module.named_modules():
            in_attention = "attention" in name.lower() or "attn" in name
            if isinstance(part, nn.Linear | Conv1D) and (self.config.linears == "all" or in_attention):
                if part.bias is None:  # Conv1D always has one
                    part.bias = nn.Parameter(part.weight.new_zeros(part.weight.shape[0]))
                part.bias.requires_grad_(True)
            elif "norm" in type(part).__name__.lower():
                weight = part.weight if getattr(part, "bias", None) is None else part.bias
                weight.requires_grad_(True)
        return module

    def head_rows(self, token_ids: Tensor) -> Rows:
        rows = super().head_rows(token_ids)
        if self.config.linears == "attention":
            return rows
        assert isinstance(rows, Tensor)
        head, ids = self.backbone.module.get_output_embeddings(), token_ids.to(rows.device)  # type: ignore[operator]
        return lambda: (rows, head.bias[ids])
