"""Entailment rows: a premise, and a hypothesis that a few edits of it make (label 0 = entailment).

The edits generalise a word or drop a modifier, specialise or add one, exchange the quantifier, or change a slot.
Which of them keep the truth follows from the quantifier: "some" allows to generalise its noun and its predicate,
"no" to specialise both, "all" to specialise its noun and to generalise its predicate.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from .lexicon import PLACES, TIMES, as_sentence, plural, with_article

TRAIN_ROWS = 5000  # the hardest of the sample tasks

KINDS = {
    "animal": ("dog", "cat", "horse", "bear"),
    "artist": ("painter", "poet", "musician"),
    "vehicle": ("car", "truck", "bus", "train"),
}
KIND_OF = {noun: kind for kind, nouns in KINDS.items() for noun in nouns}
NOUNS = tuple(KINDS) + tuple(KIND_OF)
MOVING = tuple(noun for noun in NOUNS if KIND_OF.get(noun, noun) != "vehicle")
VERBS = (
    ("follow", "followed"),
    ("find", "found"),
    ("pass", "passed"),
    ("visit", "visited"),
)
# None of them is relative to its noun: a lost dog is a lost animal, a large dog need not be a large animal.
QUALITIES = ("local", "foreign", "lost", "famous", "quiet")

MODIFIED_SHARE = 0.75
CHANGED_SHARE = 0.5
QUANTIFIER_SHARE = 0.2

UP, DOWN = 1, -1


class Quantifier(NamedTuple):
    """A determiner, with the direction in which its noun and its predicate may be replaced."""

    word: str
    noun: int
    predicate: int
    singular: bool = False
    negated: bool = False


ALL, SOME, NO = Quantifier("all", DOWN, UP), Quantifier("some", UP, UP), Quantifier("no", DOWN, DOWN)
TWO, SEVERAL = Quantifier("two", UP, UP), Quantifier("several", UP, UP)
THE, THE_NOT = Quantifier("the", UP, UP, singular=True), Quantifier("the", UP, DOWN, singular=True, negated=True)
# Mostly those that allow to generalise: that a "no" turns every edit round is hard to see for a small backbone.
QUANTIFIERS = (*(SOME, TWO, SEVERAL, THE) * 3, ALL, NO, THE_NOT)
WEAKER = {ALL: (SOME,), TWO: (SOME,), SEVERAL: (SOME,)}
NOT_IMPLIED = {
    ALL: (NO, TWO),
    SOME: (ALL, NO, TWO),
    NO: (SOME, ALL),
    TWO: (ALL,),
    SEVERAL: (ALL,),
    THE: (THE_NOT,),
    THE_NOT: (THE,),
}


def render(fact: dict) -> str:
    """The sentence that states `fact`."""
    quantifier, (base, past) = fact["quantifier"], fact["verb"]
    noun = fact["noun"] if quantifier.singular else plural(fact["noun"])
    words = [quantifier.word, fact["adjective"], noun, f"did not {base}" if quantifier.negated else past]
    words += [with_article(f"{fact['object_adjective']} {fact['object']}".strip()), fact["place"], fact["time"]]
    return as_sentence(" ".join(word for word in words if word))


def draw(rng: random.Random, slot: str) -> object:
    """A filler for one slot."""
    if slot in ("adjective", "object_adjective"):
        return rng.choice(QUALITIES) if rng.random() < MODIFIED_SHARE else ""
    if slot == "time":
        return rng.choice(TIMES) if rng.random() < MODIFIED_SHARE else ""
    if slot == "place":
        return f"near the {rng.choice(PLACES)}"
    return rng.choice({"quantifier": QUANTIFIERS, "noun": MOVING, "verb": VERBS, "object": NOUNS}[slot])


SLOTS = ("quantifier", "noun", "adjective", "verb", "object", "object_adjective", "place", "time")
MOVES = ("noun", "adjective", "object", "object_adjective", "time")


def exchange_quantifier(rng: random.Random, fact: dict) -> bool:
    """Exchange the quantifier; whether the truth is kept."""
    weaker = WEAKER.get(fact["quantifier"], ())
    fact["quantifier"] = rng.choice(weaker * 2 + NOT_IMPLIED[fact["quantifier"]])
    return fact["quantifier"] in weaker


def move(rng: random.Random, fact: dict, slot: str) -> bool:
    """Generalise or specialise one slot; whether the truth is kept."""
    old = fact[slot]
    if slot in ("noun", "object"):
        fact[slot] = rng.choice(KINDS[old]) if old in KINDS else KIND_OF[old]
        direction = DOWN if old in KINDS else UP
    else:
        fact[slot] = "" if old else rng.choice(TIMES if slot == "time" else QUALITIES)
        direction = UP if old else DOWN
    quantifier = fact["quantifier"]
    return direction == (quantifier.noun if slot in ("noun", "adjective") else quantifier.predicate)


def change(rng: random.Random, fact: dict, slot: str) -> bool:
    """Put an unrelated word into one slot; the truth is not kept."""
    old = fact[slot]
    while KIND_OF.get(fact[slot], fact[slot]) == KIND_OF.get(old, old):
        fact[slot] = draw(rng, slot)
    return False


def attempt(rng: random.Random) -> tuple[dict, dict, bool]:
    """A premise, a hypothesis, and whether the premise entails it."""
    premise = {slot: draw(rng, slot) for slot in SLOTS}
    if premise["quantifier"] in (NO, THE_NOT):
        # Room for what the hypothesis may add: under a negation nearly every drop breaks the truth, so from a premise
        # full of modifiers the negation alone would tell the label.
        premise |= {"object_adjective": "", "time": ""}
    hypothesis = dict(premise)
    # The quantifier goes first: the other edits keep the truth, or not, under the quantifier that they meet.
    entailed = exchange_quantifier(rng, hypothesis) if rng.random() < QUANTIFIER_SHARE else True
    # A change beside few other edits: a hypothesis that is much shorter is entailed more often than not, never surely.
    changed = rng.random() < CHANGED_SHARE
    for slot in rng.sample(MOVES, rng.choice((0, 1) if changed else (1, 2, 3))):
        entailed &= move(rng, hypothesis, slot)
    for slot in rng.sample(("verb", "object", "place"), rng.choice((1, 2)) if changed else 0):
        entailed &= change(rng, hypothesis, slot)
    return premise, hypothesis, entailed


def generate(rng: random.Random) -> dict:
    """One row: `sentence1`, `sentence2`, and `label` 0 where the first sentence entails the second."""
    wanted = rng.random() < 0.47
    while True:
        premise, hypothesis, entailed = attempt(rng)
        if entailed == wanted:
            return {"sentence1": render(premise), "sentence2": render(hypothesis), "label": int(not entailed)}
