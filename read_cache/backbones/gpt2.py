"""GPT-2: a decoder-only model like Llama. Its last norm is a layer norm, which cannot be undone from a stored state."""

from typing import Any

from torch import Tensor

from read_cache.backbones.llama import Llama
from read_cache.store.spec import StackSpec


class GPT2(Llama):
    """GPT-2 and its like."""

    family = "gpt2"

    @property
    def stacks(self) -> tuple[StackSpec, ...]:
        """One causal stack, called `decoder`; the raw output of its last block is not kept."""
        return tuple(stack.replaced(final_norm=False) for stack in super().stacks)

    @property
    def norm(self) -> Any:
        """The norm after the last block."""
        return self.module.base_model.ln_f  # type: ignore[union-attr]

    def final_norm(self) -> dict[str, Tensor]:
        """Return nothing: a layer norm has a bias and a mean."""
        return {}

    @property
    def final_norm_epsilon(self) -> float:
        """The epsilon of the last norm; not used."""
        return 0.0
