"""Whether a mapped file's bytes lie in the page cache: then none has come from the disk since they were checked."""

import ctypes
import mmap
import sys

import numpy as np

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def resident(image: np.ndarray) -> bool:
    """Whether every page of a mapped file, [bytes] uint8, is in memory. False where the system does not say."""
    if _LIBC is None:
        return False
    pages = np.empty(-(-len(image) // mmap.PAGESIZE), np.uint8)
    address, length = ctypes.c_void_p(image.ctypes.data), ctypes.c_size_t(len(image))
    return _LIBC.mincore(address, length, ctypes.c_void_p(pages.ctypes.data)) == 0 and bool((pages & 1).all())
