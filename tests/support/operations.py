"""The operations that torch runs: on a GPU each one is a kernel launch."""

from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Counts the operations that torch runs, and notes their names."""

    count = 0

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        self.count += 1
        self.names.add(str(operation))
        return operation(*arguments, **(options or {}))
