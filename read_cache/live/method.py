"""A trained live method, with the interface of networks beside a backbone."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from read_cache.backbones import Backbone, TokenBatch
from read_cache.live.attached import Attached
from read_cache.live.formats import targets
from read_cache.live.inputs import source_tokens
from read_cache.loader.batch import Positions
from read_cache.methods.base import LiveBatch
from read_cache.methods.saved import load_method


class AttachedMethod(Attached):
    """A backbone that a trained live method has changed. The method takes the place of a network."""

    def __init__(self, name: str, folder: Path, backbone: Backbone) -> None:
        """Open the folder. Raises UserError if the method was trained for another backbone."""
        super().__init__(backbone, {name: load_method(folder, backbone)})

    def _batches(self, names: Iterable[str], tokens: TokenBatch) -> Iterator[tuple[str, Any]]:
        """Yield the tokens alone: a method takes a pass of its own."""
        positions = {name: Positions(stack.mask) for name, stack in tokens.stacks.items()}
        rows = len(next(iter(tokens.stacks.values())).ids)
        for name in names:
            yield name, LiveBatch(tokens, targets(rows, positions, self.backbone.device))

    @torch.no_grad()
    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, *, network: str, **options: Any) -> Any:
        """Return the result of the changed model's `generate`, which takes `options`."""
        source = source_tokens(self.backbone, input_ids, attention_mask)
        model: Any = self.networks[network].module
        return model.generate(input_ids=source.ids, attention_mask=source.mask.long(), **options)
