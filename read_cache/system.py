"""Process-wide settings of memory: freed blocks, and compiled kernels."""

import contextlib
import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
KEPT_BYTES = 1 << 30
KEPT_KERNELS = 64


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


def keep_few_kernels() -> None:
    """Ask oneDNN to keep its last 64 kernels instead of 1,024, unless the user has set a number. Call it first.

    Batches of extraction hardly ever have the shape of an earlier one, and what they leave adds up: over 223 parts of
    2,048 tokens a process of 0.6 GB grew to 1.1 GB, and to 0.9 GB with this. Training meets its shapes again in every
    epoch.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KEPT_KERNELS))
