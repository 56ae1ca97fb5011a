"""The configuration of one network: its kind, its settings, its head, its learning rate and its seed."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

from pydantic import Field, SerializeAsAny

from read_cache.errors import UserError
from read_cache.scoring.heads import HeadSettings
from read_cache.settings import Settings

LONGEST_NAME = 200
"""Characters of a folder's name; file systems allow 255 bytes."""


class NetworkConfig(Settings):
    """One network of a grid: a side network that trains from a store, or a live method."""

    kind: str
    """Kind of the network, as its registry names it."""
    settings: SerializeAsAny[Settings]
    """Settings of that kind."""
    head: HeadSettings = HeadSettings()
    """Settings of the output head."""
    learning_rate: float = Field(5e-4, gt=0, lt=1)
    """Peak learning rate."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of the first weights and of dropout."""

    @property
    def name(self) -> str:
        """Name of the network's folder: label and seed. Different configurations have different names."""
        return f"{self.label}-seed{self.seed}"

    @cached_property
    def label(self) -> str:
        """Kind, shown settings, every other setting that differs from its default, learning rate."""
        shown: tuple[str, ...] = getattr(self.settings, "shown", ())
        parts = [self.kind, *(format_value(getattr(self.settings, name)) for name in shown)]
        parts += [f"{name}={format_value(value)}" for name, value in self.unusual() if name not in shown]
        label = re.sub(r"[^\w.,=+-]", "_", "-".join([*parts, f"lr{format_value(self.learning_rate)}"]))
        longest = LONGEST_NAME - len(f"-seed{self.seed}")
        return label if len(label) <= longest else f"{label[: longest - 9]}-{self.configuration}"

    @cached_property
    def configuration(self) -> str:
        """Eight hexadecimal digits that are the same for networks that differ by their seed alone.

        A setting with its default value does not count, so a later version with more settings gives the same digits.
        """
        values = {"kind": self.kind, "learning_rate": self.learning_rate} | dict(self.unusual())
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]

    def unusual(self) -> Iterator[tuple[str, Any]]:
        """Yield the name and value of each setting that differs from its default; those of the head as `head.name`."""
        for prefix, settings in (("", self.settings), ("head.", self.head)):
            values = settings.values()
            for name, field in type(settings).model_fields.items():
                if field.is_required() or getattr(settings, name) != field.get_default(call_default_factory=True):
                    yield prefix + name, values[name]


def format_value(value: Any) -> str:
    """Return a value as names show it: true and false in lower case, 4 for 4.0, all digits of other numbers."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def check_frozen_heads(networks: Iterable[NetworkConfig]) -> None:
    """Raise UserError if networks with the frozen LM head differ by settings of the head alone: it has none."""
    first: dict[NetworkConfig, NetworkConfig] = {}
    for network in networks:
        same = first.setdefault(network.replaced(head=HeadSettings()), network)
        if same.head != network.head:
            raise UserError(
                f"networks {same.name} and {network.name} differ by settings of the head alone, but theirs is the "
                "backbone's LM head, which is frozen and has none: give each one value, or set head.kind to trainable"
            )
