"""One part of one array as one file, in Zarr v3's sharding layout, without copies.

    layer 0 | its crc32c | layer 1 | its crc32c | … | index: (offset, bytes) of each layer | the index's crc32c

Layers have the same size, so a layer's offset follows from its number. The writer fills a view of the file's bytes and
writes them at once; the reader reads them and returns the same view. Plain zarr reads the file by its index.
"""

import dataclasses
from functools import cached_property
from math import prod
from typing import cast

import crc32c
import numpy as np
from typing_extensions import Buffer

CHECKSUM_BYTES = 4


@dataclasses.dataclass(frozen=True)
class Shard:
    """The layout of a part of an array whose layers are chunks of shape `inner`."""

    layers: int
    """Length of the array's first axis: states or layers."""
    inner: tuple[int, ...]
    dtype: str

    @cached_property
    def chunk_bytes(self) -> int:
        """Bytes of one layer, its checksum apart."""
        return prod(self.inner) * np.dtype(self.dtype).itemsize

    @property
    def stride(self) -> int:
        """Bytes from one layer to the next."""
        return self.chunk_bytes + CHECKSUM_BYTES

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return self.layers * self.stride + len(self.index)

    @cached_property
    def index(self) -> bytes:
        """Last bytes of the file, which depend on the layout alone."""
        entries = [(layer * self.stride, self.stride) for layer in range(self.layers)]
        table = np.array(entries, dtype="<u8").tobytes()
        return table + checksum(table)

    def view(self, image: np.ndarray, layers: int | None = None) -> np.ndarray:
        """Return a view [layers, *inner] of `image`, [bytes] uint8: of the whole file, or of its first `layers`."""
        count = self.layers if layers is None else layers
        inner = np.empty(self.inner, dtype=np.dtype([("value", self.dtype)])).strides if self.inner else ()
        return np.ndarray((count, *self.inner), self.dtype, image, strides=(self.stride, *inner))

    def close(self, image: np.ndarray) -> None:
        """Write the checksums and the index into an image whose view has been filled."""
        for layer in range(self.layers):
            start = layer * self.stride
            end = start + self.chunk_bytes
            image[end : start + self.stride] = np.frombuffer(checksum(image[start:end]), np.uint8)
        image[self.layers * self.stride :] = np.frombuffer(self.index, np.uint8)

    def checksums(self, image: np.ndarray, layers: int | None = None) -> np.ndarray:
        """Return the checksums in a closed image, [layers] uint32: of the whole file, or of its first `layers`."""
        count = self.layers if layers is None else layers
        ends = (self.stride * (layer + 1) for layer in range(count))
        return np.array([image[end - CHECKSUM_BYTES : end] for end in ends], np.uint8).view("<u4")[:, 0]

    def corrupt(self, layer: np.ndarray) -> bool:
        """Return True if the checksum of one layer, [bytes] uint8, is wrong."""
        return checksum(layer[: self.chunk_bytes]) != layer[self.chunk_bytes :].tobytes()


def checksum(data: np.ndarray | bytes) -> bytes:
    """Return crc32c in Zarr's byte order. Large arrays release the interpreter's lock."""
    return crc32c.crc32c(cast(Buffer, data)).to_bytes(CHECKSUM_BYTES, "little")


def part_mark(checksums: np.ndarray) -> int:
    """Return crc32c over the checksums of a part's layers, [layers] uint32; never 0, which means *not done*."""
    return crc32c.crc32c(checksums.astype("<u4").tobytes()) or 1
