"""The operations that torch runs: on a GPU each one is a kernel launch."""

from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Counts the operations that torch runs."""

    count = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        self.count += 1
        return operation(*arguments, **(options or {}))
