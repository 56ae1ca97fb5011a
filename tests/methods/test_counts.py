"""Trained parameters of live methods at the sizes of published T5s, on the meta device: nothing is downloaded."""

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from read_cache.backbones.t5 import T5
from read_cache.methods.base import find_method

T5_SIZES = {"small": (512, 64, 2048, 8, 6), "base": (768, 64, 3072, 12, 12), "3b": (1024, 128, 16384, 32, 24)}
COUNTS = [
    ("adapter", {"bottleneck": 32}, (799_488, 2_397_696, 6_392_832)),
    ("safe", {"bottleneck": 64}, (1_586_688, 4_758_528, 12_687_360)),
    ("bitfit", {}, (116_096, 282_496, 1_951_104)),
    ("bitfit", {"linears": "attention"}, (53_248, 158_208, 1_083_392)),
    ("lora", {"rank": 8}, (294_912, 884_736, 5_898_240)),
]


@pytest.mark.parametrize(("kind", "settings", "counts"), COUNTS)
def test_counts_of_published_sizes(kind, settings, counts) -> None:
    for (size, (d_model, d_kv, d_ff, heads, layers)), count in zip(T5_SIZES.items(), counts, strict=True):
        config = T5Config(d_model=d_model, d_kv=d_kv, d_ff=d_ff, num_heads=heads, num_layers=layers, vocab_size=32_128)
        backbone = object.__new__(T5)  # without files
        with torch.device("meta"):
            vars(backbone).update(name=size, config=config, device="meta", module=T5ForConditionalGeneration(config))
            live = find_method(kind)(find_method(kind).Config(**settings), backbone)
        assert sum(weight.numel() for weight in live.parameters() if weight.requires_grad) == count, size
