"""Similarity rows: two sentences of five slots each, and how much of the meaning they share, from 0.0 to 5.0.

A slot (subject, verb, object, place, time) counts 1 where both sentences have the same word, 0.6 where they have
synonyms, and 0 where they differ; the order of the slots does not count.
"""

from __future__ import annotations

import random

from .lexicon import as_sentence

# Two expressions in one entry are synonyms; expressions of different entries differ.
SLOTS = {
    "subject": (
        ("doctor", "physician"), ("teacher", "instructor"), ("boy", "kid"), ("king", "monarch"), ("lawyer", "attorney"),
        ("writer", "author"), ("student", "pupil"), ("sailor", "seaman"), ("artist", "painter"), ("chief", "leader"),
    ),
    "verb": (
        ("bought", "purchased"), ("found", "discovered"), ("got", "obtained"), ("chose", "selected"),
        ("showed", "displayed"), ("kept", "retained"), ("lost", "misplaced"), ("carried", "transported"),
    ),
    "object": (
        ("car", "automobile"), ("book", "volume"), ("photo", "photograph"), ("gift", "present"), ("stone", "rock"),
        ("map", "chart"), ("coat", "jacket"), ("ship", "vessel"), ("film", "movie"), ("box", "case"),
    ),
    "place": (
        ("in the forest", "in the woods"), ("by the sea", "by the ocean"), ("at the shop", "at the store"),
        ("near the harbour", "near the port"), ("beside the road", "beside the street"),
        ("outside the house", "outside the home"), ("behind the palace", "behind the castle"),
        ("near the church", "near the chapel"),
    ),
    "time": (
        ("at noon", "at midday"), ("at dawn", "at sunrise"), ("after the war", "after the conflict"),
        ("before the journey", "before the trip"), ("during the battle", "during the fight"),
        ("in the autumn", "in the fall"), ("many years ago", "long ago"), ("in the evening", "at dusk"),
    ),
}  # fmt: skip
EXACT, SYNONYM = 1.0, 0.6


def sentence(rng: random.Random, words: dict[str, str]) -> str:
    """The slots' words in one of two orders."""
    clause = "the {subject} {verb} the {object} {place}".format(**words)
    return as_sentence(f"{words['time']}, {clause}" if rng.random() < 0.5 else f"{clause} {words['time']}")


def generate(rng: random.Random) -> dict:
    """One row: `sentence1`, `sentence2`, and the score `label` in steps of 0.2."""
    # Chances drawn per row spread the scores evenly; fixed ones would heap them in the middle.
    agreement, exactness = rng.uniform(0.0, 1.1), rng.uniform(0.3, 1.0)
    first, second, score = {}, {}, 0.0
    for slot, entries in SLOTS.items():
        entry, other = rng.sample(entries, 2)
        word, synonym = rng.sample(entry, 2)
        first[slot] = word
        if rng.random() >= agreement:
            second[slot] = rng.choice(other)
        elif rng.random() < exactness:
            second[slot] = word
            score += EXACT
        else:
            second[slot] = synonym
            score += SYNONYM
    return {"sentence1": sentence(rng, first), "sentence2": sentence(rng, second), "label": round(score, 1)}
