"""Colours and outlines that the world has no name for: shown while a model learns, never said.

With 56 pairs to learn from, what a star looks like and what red looks like can be learnt together, pair by pair. A star
of a colour without a name teaches the star alone, and a red zigzag the red alone. The vision side has labels for the
part that has a name; the language model is asked what can be asked and answered without saying the other part.
"""

from __future__ import annotations

import re

import numpy as np

from ..colours import COLOURS, RGB, luma
from ..outlines import UNNAMED_OUTLINES
from ..randomness import pick
from .candidate import Candidate
from .lexicon import SHAPES, TEXT_SORTS, plural
from .made_up import KNOWN, made_up_word
from .scene import Scene

UNNAMED = "unnamed"  # stands where a name would
_APART = 75.0  # RGB distance from every colour that has a name: "red" is shaken by 12 levels a channel
_CONTRAST = 45  # of brightness, to the ground
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_GROUND = {False: 230.0, True: 53.0}  # light, dark
_NOT_NAMES = re.compile(rf"\b({'|'.join((UNNAMED, *UNNAMED_OUTLINES, *map(plural, UNNAMED_OUTLINES)))})\b")


def is_all_named(scene: Scene) -> bool:
    """Whether every colour and shape of ``scene`` has a name."""
    return all(t.colour in COLOURS and (t.shape in SHAPES or t.shape in TEXT_SORTS) for t in scene.things)


def can_be_said(candidate: Candidate) -> bool:
    """Whether neither the question nor the answer, nor a turn before them, says what has no name."""
    said = " ".join((*candidate.slots.values(), candidate.answer))
    return _NOT_NAMES.search(said) is None and all(can_be_said(earlier) for earlier in candidate.history)


def unnamed_colour(rng: np.random.Generator, dark: bool) -> RGB:
    """A colour that is none of the world's and can be seen on a light or a ``dark`` ground."""
    named = np.array(list(COLOURS.values()), dtype=np.float64)
    while True:
        r, g, b = (int(v) for v in rng.integers(0, 256, 3))
        far = np.sqrt(((named - (r, g, b)) ** 2).sum(1)).min() >= _APART
        if far and abs(luma((r, g, b)) - _GROUND[dark]) >= _CONTRAST:
            return r, g, b


def unnamed_outline(rng: np.random.Generator) -> str:
    """The key of an outline that is none of the world's shapes."""
    return pick(rng, tuple(UNNAMED_OUTLINES))


def unknown_word(rng: np.random.Generator) -> str:
    """Three to six letters that are no word of the world's: what is read must be read letter by letter."""
    if rng.random() < 0.5:
        return made_up_word(rng)
    while True:
        word = "".join(pick(rng, _LETTERS) for _ in range(3 + int(4 * rng.random())))
        if word not in KNOWN:
            return word
