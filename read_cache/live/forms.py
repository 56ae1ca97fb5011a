"""A live backbone's outputs in the form of a store: the batch that networks beside the backbone see.

Shape letters as in `loader/batch.py`.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from read_cache.errors import UserError
from read_cache.extract.forward import NonFiniteError, stored_attention, stored_states
from read_cache.loader.batch import Batch, StackBatch
from read_cache.loader.collate import Collator
from read_cache.store.quantization import Calibration
from read_cache.store.schema import Form

Arrays = dict[str, Tensor]
"""By the store's array names: [state, B, S or T, D], or weights [layer, (H,) B, to, from]."""


class LiveForm:
    """A store's form. Networks of one form share the batches it makes."""

    def __init__(self, form: Form, calibration: Calibration | None, device: str) -> None:
        self.form, self.calibration = form, calibration
        self.collator = Collator(np.zeros(0, np.int64), form, calibration, device)

    def encoder_arrays(self, out: Any) -> Arrays:
        """The encoder's states and attention weights as a store holds them. Raises UserError if they are not finite."""
        return self._arrays("encoder", out, self.calibration, {"encoder/attention": out.attentions})

    def decoder_arrays(self, out: Any) -> Arrays:
        """The decoder's, one row a path."""
        weights = {"decoder/self_attention": out.attentions, "decoder/cross_attention": out.cross_attentions}
        return self._arrays("decoder", out, None, weights)

    def _arrays(self, stack: str, out: Any, calibration: Calibration | None, weights: dict[str, Any]) -> Arrays:
        try:
            hidden, _ = stored_states(stack, out, self.form, calibration)
        except NonFiniteError as error:
            raise UserError(f"{error}: look at the model's weights, or run it in fp32") from error
        kept = {
            name: stored_attention(layers, self.form, name)
            for name, layers in weights.items()
            if self.form.attention != "none"
        }
        return {f"{stack}/hidden": hidden} | {name: values for name, values in kept.items() if values is not None}

    def encoder_stack(self, arrays: Arrays, mask_BS: Tensor) -> StackBatch:
        """The encoder's stack of a batch; `mask_BS` is not 0 where a token is real."""
        return self.collator.encoder_stack(arrays, mask_BS != 0)

    def decoder_stack(self, arrays: Arrays) -> tuple[StackBatch, Tensor | None]:
        """The decoder's stack of a batch, all of it taken for real, and its attention to the encoder."""
        hidden = arrays["decoder/hidden"]
        real_BT = torch.ones(hidden.shape[1:3], dtype=torch.bool, device=hidden.device)
        return self.collator.decoder_stack(arrays, real_BT), self.collator.cross_attention(arrays)

    def batch(self, arrays: Arrays, mask_BS: Tensor, final_BTD: Tensor) -> Batch:
        """The batch of both stacks' arrays; `final_BTD` is phi_N as the backbone gave it, not rounded as stored.

        Padding needs no zeros: no real place attends to it.
        """
        decoder, cross = self.decoder_stack(arrays)
        nowhere = torch.full(final_BTD.shape[:2], -1, device=final_BTD.device)
        return Batch(self.encoder_stack(arrays, mask_BS), decoder, cross, final_BTD.float(), nowhere, nowhere)


def row_axis(name: str, values: Tensor) -> int:
    """Where the batch's rows lie in an array."""
    return 1 if name.endswith("hidden") else values.ndim - 3
