"""One thing that could be asked of a scene: everything but the wording."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .lexicon import TEXT_SORTS
from .scene import Description, Thing

Pair = tuple[str, str]


@dataclass(frozen=True)
class Candidate:
    """``slots`` fill the wordings of ``family``. Answers are balanced over ``group``, then over ``sort``.

    ``pairs`` and ``words``: the colour-shape pairs and drawn or unknown words that the question names or turns on.
    ``history``: candidates of the earlier turns.
    """

    family: str
    slots: dict[str, str]
    answer: str
    group: str = ""
    sort: str = ""
    pairs: frozenset[Pair] = frozenset()
    words: frozenset[str] = frozenset()
    refusal: bool = False
    history: tuple[Candidate, ...] = ()


def pairs_of(things: Iterable[Thing], *descriptions: Description) -> frozenset[Pair]:
    """The pairs of ``things`` and those that ``descriptions`` name."""
    found = {(t.colour, t.shape) for t in things if t.shape not in TEXT_SORTS}
    return frozenset(found | {d.pair for d in descriptions if d.pair is not None})


def words_of(things: Iterable[Thing], *descriptions: Description) -> frozenset[str]:
    """The drawn words of ``things`` and those that ``descriptions`` name; numbers are not among them."""
    found = {t.text for t in things if t.shape == "word"}
    return frozenset(found | {d.text for d in descriptions if d.text is not None and d.shape == "word"})
