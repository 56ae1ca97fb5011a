"""Layers chosen by text, such as `2,4,6-12`."""

import re

from read_cache.errors import UserError


def parse_layers(text: str) -> tuple[int, ...] | None:
    """Return layer numbers, from 1, ascending; None for `all`. Raises UserError."""
    if text == "all":
        return None
    layers: set[int] = set()
    for item in text.split(","):
        match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", item.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last:
            raise UserError(f"layers is {text!r}, expected numbers from 1 and ranges such as 2,4,6-12, or all")
        layers |= set(range(first, last + 1))
    return tuple(sorted(layers))


def choose_layers(text: str, present: tuple[int, ...], where: str) -> tuple[int, ...]:
    """Return the chosen layers of those that `where` has; its last one is always included. Raises UserError."""
    chosen = parse_layers(text)
    if chosen is None:
        return present
    if absent := sorted(set(chosen) - set(present)):
        raise UserError(
            f"layers is {text}, but {where} has no layer {absent[0]}; it has layers {format_layers(present)}"
        )
    return tuple(sorted({*chosen, present[-1]}))


def format_layers(layers: tuple[int, ...]) -> str:
    """Return the text that `parse_layers` reads, with runs as ranges."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
