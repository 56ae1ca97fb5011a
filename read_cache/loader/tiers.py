"""Which splits of a store are held in memory while networks train on them."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from read_cache.errors import UserError

Tier = Literal["device", "memory", "streamed"]
"""All parts on an accelerator, all in memory, or two windows of them at a time."""


@dataclasses.dataclass(frozen=True)
class SplitSize:
    """Bytes of the arrays and layers of a split that networks read."""

    part_bytes: int
    parts: int

    @property
    def whole(self) -> int:
        """Bytes of all parts."""
        return self.part_bytes * self.parts

    def parts_ahead(self, window: int) -> int:
        """Return the number of parts that a stream holds at once: two windows, or all if there are fewer."""
        return min(2 * window, self.parts)


def assign_tiers(
    sizes: Mapping[str, SplitSize], window: int, memory_bytes: float, device_bytes: float
) -> dict[str, Tier]:
    """Keep the smallest splits, on the device before memory, and stream the others, one at a time.

    `device_bytes` bounds the device and `memory_bytes` the host. A split is kept in memory only if the rest can still
    stream the other splits. Raises UserError if memory is too small even for streaming.
    """
    tiers: dict[str, Tier] = dict.fromkeys(sizes, "streamed")
    whole = {name: size.whole for name, size in sizes.items()}
    streamed = {name: size.part_bytes * size.parts_ahead(window) for name, size in sizes.items()}

    def largest_stream(but: str = "") -> tuple[int, str]:
        """Return (bytes, split) of the largest window among the streamed splits."""
        names = [name for name, tier in tiers.items() if tier == "streamed" and name != but]
        return max(((streamed[name], name) for name in names), default=(0, ""))

    for name in sorted(sizes, key=lambda name: whole[name]):
        if whole[name] <= device_bytes:
            tiers[name], device_bytes = "device", device_bytes - whole[name]
        elif whole[name] + largest_stream(but=name)[0] <= memory_bytes:
            tiers[name], memory_bytes = "memory", memory_bytes - whole[name]
    streamed_bytes, largest = largest_stream()
    if streamed_bytes > memory_bytes:
        size = sizes[largest]
        raise UserError(
            f"{size.parts_ahead(window)} parts of {size.part_bytes / 1e6:.3g} MB ({largest}) do not fit into the "
            f"{memory_bytes / 1e9:.3g} GB that are given: raise memory, lower window, which is {window}, read "
            "fewer layers, or extract with smaller part_tokens"
        )
    return tiers
