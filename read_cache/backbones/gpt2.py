"""GPT-2: a decoder-only model like Llama. Its last norm is a layer norm, which cannot be undone from a stored state."""

from typing import Any

from read_cache.backbones.base import Block
from read_cache.backbones.llama import Llama
from read_cache.store.spec import BlockSpec


class GPT2(Llama):
    """GPT-2 and its like. The raw output of the last block is not kept."""

    family = "gpt2"
    has_rms_norm = False
    block = BlockSpec()

    def blocks(self) -> dict[str, list[Block]]:
        layers: Any = self.module.base_model.h  # type: ignore[union-attr]
        return {"decoder": [Block(layer, layer.attn.c_proj, layer.mlp.c_proj) for layer in layers]}
