"""The backbone's own `generate`, with the decoder's last state corrected by a network before the head reads it."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch import Tensor

from read_cache.backbones import StackTokens, StackTrace
from read_cache.live.formats import Arrays, LiveFormat
from read_cache.live.inputs import chain_parents
from read_cache.networks.base import SideNetwork


class KeepsPrefix:
    """Part of a cache that holds the activations of the decoder over the prefix, in a store's format.

    A search that reorders its beams reorders both.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.prefix: Arrays = {}

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Put row `beam_idx[i]` in the place of row i."""
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self.prefix = {
            name: values.index_select(row_axis(name, values), beam_idx.to(values.device))
            for name, values in self.prefix.items()
        }

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last positions; the absolute value is their number. Assisted decoding removes wrong guesses."""
        super().crop(tokens_to_remove)  # type: ignore[misc]
        if removed := abs(tokens_to_remove):
            for name, values in self.prefix.items():
                axis = row_axis(name, values) + 1
                values = values.narrow(axis, 0, values.shape[axis] - removed)
                self.prefix[name] = values[..., :-removed] if name.endswith("self_attention") else values

    def extended(self, new: Arrays) -> Arrays:
        """Return the arrays of the whole prefix, given those of its last positions."""
        for name, values in new.items():
            if name in self.prefix:
                before = self.prefix[name]
                if name.endswith("self_attention"):  # no position attends to later ones
                    before = torch.nn.functional.pad(before, (0, values.shape[-1] - before.shape[-1]))
                values = torch.cat([before, values], dim=row_axis(name, values) + 1)
            self.prefix[name] = values
        return self.prefix


class DecoderPrefixCache(KeepsPrefix, transformers.DynamicCache):
    """The cache of a decoder-only backbone."""


class PrefixCache(KeepsPrefix, transformers.EncoderDecoderCache):
    """The cache of an encoder-decoder backbone."""


def generation_cache(model: Any) -> DecoderPrefixCache | PrefixCache:
    """Return an empty cache for a model."""
    config = model.config.get_text_config(decoder=True)
    if model.config.is_encoder_decoder:
        return PrefixCache(transformers.DynamicCache(config=config), transformers.DynamicCache(config=config))
    return DecoderPrefixCache(config=config)


@contextlib.contextmanager
def corrected_decoder(backbone: Any, format: LiveFormat, network: SideNetwork) -> Iterator[None]:
    """While this lasts, the decoder's last hidden state is the network's y.

    The decoder is given the whole prefix, or what follows a prefix that a `PrefixCache` holds. What the network makes
    of the encoder is computed once. A beam is a row of the decoder; the beams of one encoder row follow one another.
    """
    source, readout = backbone.stacks[0].name, backbone.stacks[-1].name
    alone = source == readout  # a decoder-only backbone
    modules = {readout: backbone.module.base_model} if alone else {source: backbone.encoder, readout: backbone.decoder}
    raw: dict[str, Tensor] = {}
    contexts: dict[int, dict[str, Tensor]] = {}

    def ask(module: torch.nn.Module, given: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return given, options | {"output_hidden_states": True, "output_attentions": format.attention}

    def arrays(name: str, out: Any) -> Arrays:
        hidden = StackTrace(
            list(out.hidden_states),
            list(out.attentions) if format.attention else None,
            list(out.cross_attentions) if format.attention and name == readout and not alone else None,
            raw.get(name),
        )
        return format.arrays({name: hidden})

    def encode(module: torch.nn.Module, given: Any, options: dict[str, Any], out: Any) -> None:
        mask = options["attention_mask"] != 0
        batch = format.batch(arrays(source, out), {source: StackTokens(mask, mask)}).of(network.shape.layers)
        contexts.clear()
        contexts[len(mask)] = network.context(batch)

    def correct(module: torch.nn.Module, given: Any, options: dict[str, Any], out: Any) -> Any:
        final, cache, new = out.last_hidden_state, options.get("past_key_values"), arrays(readout, out)
        prefix = cache.extended(new) if isinstance(cache, KeepsPrefix) else new
        hidden = prefix[f"{readout}/hidden"]
        mask = torch.ones(hidden.shape[1:3], dtype=torch.bool, device=hidden.device)
        if alone:
            mask = options["attention_mask"] != 0
        else:
            rows, encoded = len(final), next(iter(contexts))
            if rows not in contexts:
                repeat = rows // encoded
                contexts[rows] = {name: x.repeat_interleave(repeat, 0) for name, x in contexts[encoded].items()}
        tokens = StackTokens(mask, mask, parent=chain_parents(mask) if alone else None)
        batch = format.batch(prefix, {readout: tokens}).of(network.shape.layers)
        y = network.corrected(batch, network.context(batch) if alone else contexts[rows])
        out.last_hidden_state = y[:, -final.shape[1] :].to(final.dtype)
        return out

    with contextlib.ExitStack() as hooks:
        for name, stack in modules.items():
            norm = backbone.final_norms.get(name)
            if norm is not None:
                keep = norm.register_forward_pre_hook(lambda _, given, name=name: raw.update({name: given[0]}))
                hooks.callback(keep.remove)
            hooks.callback(stack.register_forward_pre_hook(ask, with_kwargs=True).remove)
        if not alone:
            hooks.callback(modules[source].register_forward_hook(encode, with_kwargs=True).remove)
        hooks.callback(modules[readout].register_forward_hook(correct, with_kwargs=True).remove)
        yield


def row_axis(name: str, values: Tensor) -> int:
    """Return the axis of the batch's rows in an array; the axis of positions follows it."""
    return values.ndim - 3 if name.endswith("attention") else 1
