"""GPT-2: a decoder-only model like Llama. Its last norm is a layer norm, which cannot be undone from a stored state."""

from read_cache.backbones.llama import Llama
from read_cache.store.spec import BlockSpec


class GPT2(Llama):
    """GPT-2 and its like. The raw output of the last block is not kept."""

    family = "gpt2"
    has_rms_norm = False
    block = BlockSpec()
