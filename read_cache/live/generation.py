"""The backbone's own `generate`, with the decoder's last state corrected by a network before the head sees it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from read_cache.extract.backbone import Backbone
from read_cache.live.forms import Arrays, LiveForm, with_rows_repeated
from read_cache.networks.batch import Batch


@contextlib.contextmanager
def corrected_decoder(
    backbone: Backbone, form: LiveForm, network: Callable[[Batch], Tensor], wanted: dict[str, bool]
) -> Iterator[None]:
    """While this lasts, the decoder's last state is the network's y. The decoder must be given the whole prefix.

    Both stacks are asked for the outputs that `wanted` names. A beam is a row of the decoder: those of one encoder row
    lie together, in whatever order the search has put them, so each sees its own encoder row again.
    """
    encoded: Arrays = {}

    def ask(module: torch.nn.Module, given: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return given, options | wanted

    def keep(module: torch.nn.Module, given: Any, out: Any) -> None:
        encoded.update(form.encoder_arrays(out))

    def correct(module: torch.nn.Module, given: Any, out: Any) -> Any:
        final = out.last_hidden_state
        beams = len(final) // encoded["encoder/hidden"].shape[1]
        batch = form.batch(with_rows_repeated(encoded, beams) | form.decoder_arrays(out), final)
        out.last_hidden_state = network(batch).to(final.dtype)
        return out

    handles = [
        backbone.encoder.register_forward_pre_hook(ask, with_kwargs=True),
        backbone.decoder.register_forward_pre_hook(ask, with_kwargs=True),
        backbone.encoder.register_forward_hook(keep),
        backbone.decoder.register_forward_hook(correct),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
