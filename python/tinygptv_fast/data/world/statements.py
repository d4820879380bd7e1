"""Statements to be answered yes or no, after VSR (Liu et al. 2023, arXiv 2205.00363): true and false in equal parts."""

from __future__ import annotations

from collections.abc import Iterator

from .attributes import sizes, textures
from .candidate import Candidate
from .counting import counts, existence, larger
from .lexicon import MAX_THINGS, SIZES, TEXTURES
from .places import relations
from .scene import Scene


def statements(scene: Scene) -> Iterator[Candidate]:
    for c in existence(scene):
        yield _say(c, f"there is {c.slots['a_thing']}", c.answer == "yes", "exist")
    for c in relations(scene):
        clause = "the {one} is {relation} the {other}".format(**c.slots)
        yield _say(c, clause, c.answer == "yes", "relation")
    for c in counts(scene):
        yield from _numbers(c)
    for values, found in ((SIZES, sizes(scene)), (TEXTURES, textures(scene))):
        for c in found:
            for value in values:
                yield _say(c, f"the {c.slots['thing']} is {value}", value == c.answer, c.family)
    for c in larger(scene):
        clause = "the {one} is larger than the {other}".format(**c.slots)
        yield _say(c, clause, c.group == "first", "larger")


def _numbers(c: Candidate) -> Iterator[Candidate]:
    """``there are 3 stars`` and, false, one more and one fewer. Below two the grammar is another: left out."""
    true = int(c.answer)
    for number in (true - 1, true, true + 1):
        if 2 <= number <= MAX_THINGS:
            yield _say(c, f"there are {number} {c.slots['things']}", number == true, "count")


def _say(c: Candidate, clause: str, true: bool, sort: str) -> Candidate:
    answer = "yes" if true else "no"
    slots = {"clause": clause, "statement": clause[0].upper() + clause[1:] + "."}
    return Candidate("statement", slots, answer, answer, sort, c.pairs, c.words)
