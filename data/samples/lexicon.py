"""Word lists and spelling that the sample grammars share; most words are single pieces for the backbone."""

from __future__ import annotations

PLACES = ("river", "bridge", "church", "school", "forest")
TIMES = ("in the morning", "in the evening", "in the winter", "in the summer", "before the war", "after the storm")
IRREGULAR_PLURALS = {"bus": "buses", "church": "churches"}


def plural(noun: str) -> str:
    """The plural of a noun."""
    return IRREGULAR_PLURALS.get(noun, noun + "s")


def with_article(phrase: str) -> str:
    """The phrase behind "a" or "an"."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def as_sentence(clause: str) -> str:
    """The clause with a capital letter and a full stop."""
    return clause[0].upper() + clause[1:] + "."
