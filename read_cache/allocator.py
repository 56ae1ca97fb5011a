"""How this process keeps the memory it has freed."""

import contextlib
import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
KEPT_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Ask glibc to keep large freed blocks, of every thread, instead of giving each back and faulting it in again.

    Activations are a few megabytes a tensor, just where glibc's default is to map and unmap every one: on two cores
    this alone took a tenth of a training step. Any thread but the first has heaps of 64 MB by default, which go back
    to the kernel whenever they are empty, as after every padded batch: so all threads share one. Before any starts.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for option, value in ((M_MMAP_THRESHOLD, KEPT_BYTES), (M_TRIM_THRESHOLD, KEPT_BYTES), (M_ARENA_MAX, 1)):
            libc.mallopt(option, value)
