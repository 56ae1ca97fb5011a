"""The backbone's own `generate`, with the decoder's last state corrected by a network before the head sees it."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch import Tensor

from read_cache.backbones.t5 import Backbone
from read_cache.live.forms import Arrays, LiveForm, row_axis
from read_cache.loader.batch import at_layers
from read_cache.networks.read import Read


class PrefixCache(transformers.EncoderDecoderCache):
    """The backbone's cache and, beside it, what its decoder said of the prefix, in a store's form: one a row each.

    A search that reorders its beams reorders both.
    """

    def __init__(self, config: transformers.PretrainedConfig) -> None:
        super().__init__(transformers.DynamicCache(config=config), transformers.DynamicCache(config=config))
        self.prefix: Arrays = {}

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes what row `beam_idx[i]` was."""
        super().reorder_cache(beam_idx)
        self.prefix = {
            name: values.index_select(row_axis(name, values), beam_idx.to(values.device))
            for name, values in self.prefix.items()
        }

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last places, so many as the number says without its sign: assisted decoding takes guesses back."""
        super().crop(tokens_to_remove)
        if removed := abs(tokens_to_remove):
            for name, values in self.prefix.items():
                values = values[..., :-removed, :]
                self.prefix[name] = values[..., :-removed] if name == "decoder/self_attention" else values

    def extended(self, new: Arrays) -> Arrays:
        """The arrays of the whole prefix, of which `new` are those of the last places."""
        for name, values in new.items():
            if name in self.prefix:
                before = self.prefix[name]
                if name == "decoder/self_attention":  # no place attends to those after it
                    before = torch.nn.functional.pad(before, (0, values.shape[-1] - before.shape[-1]))
                values = torch.cat([before, values], dim=-2)
            self.prefix[name] = values
        return self.prefix


@contextlib.contextmanager
def corrected_decoder(
    backbone: Backbone, form: LiveForm, network: Read, precision: torch.autocast, wanted: dict[str, bool]
) -> Iterator[None]:
    """While this lasts, the decoder's last state is the network's y, its products in `precision`.

    The decoder is given the whole prefix, or what follows one that a `PrefixCache` holds. Both stacks are asked for the
    outputs that `wanted` names. The encoder's READ states are made once. A beam is a row of the decoder: those of one
    encoder row lie together, in whatever order the search has put them, so each sees its own encoder row again.
    """
    encoded: dict[int, Tensor | None] = {}

    def ask(module: torch.nn.Module, given: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return given, options | wanted

    def keep(module: torch.nn.Module, given: Any, options: dict[str, Any], out: Any) -> None:
        encoded.clear()
        stack = form.encoder_stack(form.encoder_arrays(out), options["attention_mask"]).of(network.shape.encoder_layers)
        with precision:
            encoded[len(out.last_hidden_state)] = network.encode(stack)

    def correct(module: torch.nn.Module, given: Any, options: dict[str, Any], out: Any) -> Any:
        final, cache, arrays = out.last_hidden_state, options.get("past_key_values"), form.decoder_arrays(out)
        if isinstance(cache, PrefixCache):
            arrays = cache.extended(arrays)
        rows, of_encoder = len(final), next(iter(encoded))
        if rows not in encoded and (states := encoded[of_encoder]) is not None:
            encoded[rows] = states.repeat_interleave(rows // of_encoder, dim=0)
        layers, (stack, cross) = network.shape.decoder_layers, form.decoder_stack(arrays)
        cross = at_layers(cross, stack.layers, layers)
        with precision:
            correction = network.correction(stack.of(layers), cross, encoded.get(rows))
        out.last_hidden_state = network.corrected(final.float(), correction[:, -final.shape[1] :].float()).to(
            final.dtype
        )
        return out

    handles = [
        backbone.encoder.register_forward_pre_hook(ask, with_kwargs=True),
        backbone.decoder.register_forward_pre_hook(ask, with_kwargs=True),
        backbone.encoder.register_forward_hook(keep, with_kwargs=True),
        backbone.decoder.register_forward_hook(correct, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
