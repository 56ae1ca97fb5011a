"""Is a mapped file in the page cache? Then no byte has come from the disk since its checksums were compared."""

import ctypes
import mmap
import sys

import numpy as np

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def resident(image: np.ndarray) -> bool:
    """Return True if every page of a mapped file, [bytes] uint8, is in memory; False if the system cannot tell."""
    if _LIBC is None:
        return False
    pages = np.empty(-(-len(image) // mmap.PAGESIZE), np.uint8)
    address, length = ctypes.c_void_p(image.ctypes.data), ctypes.c_size_t(len(image))
    return _LIBC.mincore(address, length, ctypes.c_void_p(pages.ctypes.data)) == 0 and bool((pages & 1).all())
