"""A loss that torch.compile makes faster, where it can."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Loss = Callable[..., Tensor]
"""Returns the loss of a batch, or one for each network of a stack."""
Wrap = Callable[[Loss], Loss]
"""Returns a loss in place of another, with the same values."""


def plain(loss: Loss) -> Loss:
    """Return the loss itself."""
    return loss


def compiled(say: Callable[[str], None]) -> Wrap:
    """Return a function that compiles losses.

    If the compiler fails, `say` is told once, and all losses run without it. The length of a batch is a variable of the
    compiled code, so each network is compiled once.
    """
    failures: list[Exception] = []

    def wrap(loss: Loss) -> Loss:
        made = torch.compile(loss, dynamic=True)

        def call(*arguments: Any) -> Tensor:
            if not failures:
                try:
                    return made(*arguments)
                except torch._dynamo.exc.TorchDynamoException as error:
                    failures.append(error)
                    say(f"torch.compile failed, so training goes on without it: {str(error).splitlines()[0][:200]}")
            return loss(*arguments)

        return call

    return wrap
