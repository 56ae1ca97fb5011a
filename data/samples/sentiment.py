"""Sentiment rows: review-like sentences whose label (1 = positive) negation and contrast decide.

A clause has the polarity of its adjective, or the opposite when negated. Joined clauses either agree, or contrast;
then the main clause decides. The adjectives in `HELD_OUT` never appear in the training split.
"""

from __future__ import annotations

import random

from .lexicon import as_sentence

POSITIVE = (
    "good", "great", "excellent", "beautiful", "fine", "strong", "fresh", "original", "remarkable", "impressive",
    "rich", "powerful", "perfect", "subtle", "sophisticated", "intelligent", "sharp", "profound", "extraordinary",
    "effective", "clever", "superb", "lovely", "exciting", "interesting", "funny", "charming", "wonderful",
)  # fmt: skip
NEGATIVE = (
    "bad", "poor", "weak", "cheap", "flat", "empty", "slow", "confused", "thin", "false", "harsh", "artificial",
    "primitive", "dull", "boring", "worthless", "lifeless", "lazy", "predictable", "bland", "painful", "shallow",
    "useless", "awful", "tedious", "pathetic", "terrible", "crude",
)  # fmt: skip
HELD_OUT = (
    "excellent", "beautiful", "remarkable", "powerful", "superb", "interesting", "poor", "weak", "empty", "harsh",
    "boring", "terrible",
)  # fmt: skip

ASPECTS = (
    "plot", "music", "cast", "story", "ending", "dialogue", "script", "direction", "writing", "acting", "performance",
    "humor", "photography", "soundtrack",
)  # fmt: skip
WORKS = ("film", "movie", "drama", "play", "series", "show", "comedy", "opera")
AFFIRMED = ("was", "was", "was truly", "was really", "was simply", "was so", "was quite", "felt", "seemed", "remained")
NEGATED = ("was not", "was never", "was hardly", "was far from", "seemed far from", "was anything but", "did not seem")
OPENINGS = ("on the whole,", "in the end,", "for most of the evening,", "I think that", "everyone agreed that")
DENIALS = ("nobody could say that", "I cannot agree that", "it is not true that")
# In every pattern the clause {main} decides the label.
CONTRASTS = (
    "{other}, but {main}",
    "{other}, yet {main}",
    "although {other}, {main}",
    "{main}, although {other}",
    "{main}, even if {other}",
)


def clause(rng: random.Random, positive: bool, aspect: str) -> str:
    """A clause about one aspect of a work, with the polarity asked for."""
    negated = rng.random() < 0.1
    adjective = rng.choice(POSITIVE if positive != negated else NEGATIVE)
    verb = rng.choice(NEGATED if negated else AFFIRMED)
    return f"the {aspect} {verb} {adjective}"


def generate(rng: random.Random) -> dict:
    """One row: `sentence`, and `label` 1 where the sentence is positive."""
    positive = rng.random() < 0.54
    aspect, other_aspect = rng.sample(ASPECTS, 2)
    kind = rng.choices(("single", "agreement", "contrast", "denial"), weights=(4, 4, 2, 0.5))[0]
    work = f"{aspect} of the {rng.choice(WORKS)}"
    if kind == "single":
        text = f"{rng.choice(OPENINGS)} {clause(rng, positive, work)}"
    elif kind == "denial":
        text = f"{rng.choice(DENIALS)} {clause(rng, not positive, work)}"
    elif kind == "agreement":
        text = f"{clause(rng, positive, work)} and {clause(rng, positive, other_aspect)}"
    else:
        main, other = clause(rng, positive, work), clause(rng, not positive, other_aspect)
        text = rng.choice(CONTRASTS).format(main=main, other=other)
    return {"sentence": as_sentence(text), "label": int(positive)}
