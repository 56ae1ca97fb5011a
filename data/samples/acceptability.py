"""Acceptability rows: a well-formed sentence (label 1), or one minimal edit of such a sentence (label 0).

The edits break the number that a determiner shares with its noun, the order of two neighbouring words, subject-verb
agreement, or, rarely, the verb's frame (an object where none is allowed, or none where one is needed). Most violations
are local: the bundled backbone is small, and sees little of what lies far apart.
"""

from __future__ import annotations

import random

from .lexicon import PLACES, TIMES, as_sentence, plural

PEOPLE = ("student", "soldier", "artist", "writer", "leader", "officer")
THINGS = ("book", "letter", "song", "film", "game", "ship")
ADJECTIVES = ("old", "small", "new", "famous", "strange")
TRANSITIVE = ("describe", "mention", "need", "receive", "protect")
INTRANSITIVE = ("arrive", "wait", "appear", "disappear")
STATES = ("happy", "important", "popular", "silent", "safe")
DETERMINERS = (("this", "that", "one", "every"), ("these", "those", "two", "many"))
PREPOSITIONS = {PLACES: ("near", "behind", "outside", "from"), THINGS: ("with", "beside", "behind")}

GOOD_SHARE = 0.55
EDITS = {"number": 8, "order": 6, "agreement": 4, "frame": 1}
MODIFIED_SHARE = 0.15
SINGULAR, PLURAL = 0, 1


def inflect(noun: str, number: int) -> str:
    return plural(noun) if number == PLURAL else noun


def noun_phrase(rng: random.Random, nouns: tuple[str, ...], number: int, clash: bool = False) -> list[str]:
    """Determiner, perhaps adjectives, noun; with `clash` the determiner has the wrong number."""
    marked = clash or rng.random() < 0.5
    determiner = rng.choice(DETERMINERS[number != clash]) if marked else "the"
    adjective = [rng.choice(ADJECTIVES)] if rng.random() < 0.25 else []
    return [determiner, *adjective, inflect(rng.choice(nouns), number)]


def modifier(rng: random.Random) -> list[str]:
    """A phrase between subject and verb whose nouns may tempt the verb to agree with them."""
    number = rng.randrange(2)
    if rng.random() < 0.2:
        return ["that", "the", inflect(rng.choice(PEOPLE), number), "needed"]
    nouns = rng.choice((PLACES, THINGS))
    return [rng.choice(PREPOSITIONS[nouns]), *noun_phrase(rng, nouns, number)]


def verb_group(rng: random.Random, verb: str, number: int) -> list[str]:
    """The verb in the simple present or the perfect; a state follows a form of "be"."""
    if verb in STATES:
        return [rng.choice((("is", "was"), ("are", "were"))[number]), verb]
    if rng.random() < 0.5:
        return [("has", "have")[number], verb + ("d" if verb.endswith("e") else "ed")]
    return [verb if number == PLURAL else verb + "s"]


def shuffle_neighbours(rng: random.Random, groups: list[list[str]]) -> None:
    """Swap two neighbouring words inside one group."""
    group = rng.choice([group for group in groups if len(group) > 1])
    at = rng.randrange(len(group) - 1)
    group[at], group[at + 1] = group[at + 1], group[at]


def generate(rng: random.Random) -> dict:
    """One row: `sentence`, and `label` 1 where the sentence is acceptable."""
    frame = rng.choice((TRANSITIVE, INTRANSITIVE, STATES))
    good = rng.random() < GOOD_SHARE
    edit = None if good else rng.choices(tuple(EDITS), weights=tuple(EDITS.values()))[0]
    if edit == "frame" and frame is STATES:
        frame = rng.choice((TRANSITIVE, INTRANSITIVE))
    # The object stays as the frame wants it and the verb is exchanged, so the edit is a single word.
    verbs = frame if edit != "frame" else (INTRANSITIVE if frame is TRANSITIVE else TRANSITIVE)
    number = rng.randrange(2)
    clashing = rng.randrange(2) if frame is TRANSITIVE else 0
    subject = noun_phrase(rng, PEOPLE, number, edit == "number" and clashing == 0)
    verb = verb_group(rng, rng.choice(verbs), 1 - number if edit == "agreement" else number)
    groups = [subject, modifier(rng) if rng.random() < MODIFIED_SHARE else [], verb]
    if frame is TRANSITIVE:
        groups.append(noun_phrase(rng, THINGS, rng.randrange(2), edit == "number" and clashing == 1))
    time = rng.choice(TIMES)
    if edit == "order":
        shuffle_neighbours(rng, groups)
    clause = " ".join(word for group in groups for word in group)
    fronted = rng.random() < 0.4
    return {"sentence": as_sentence(f"{time}, {clause}" if fronted else f"{clause} {time}"), "label": int(good)}
