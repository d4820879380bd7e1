"""Colours and outlines that the world has no name for: shown while the vision side learns, never asked about.

With 56 pairs to learn from, what a star looks like and what red looks like can be learnt together, pair by pair. A star
of a colour without a name teaches the star alone, and a red zigzag the red alone.
"""

from __future__ import annotations

import numpy as np

from ..colours import COLOURS, RGB, luma
from ..outlines import UNNAMED_OUTLINES
from ..randomness import pick
from .made_up import KNOWN, made_up_word

UNNAMED = "unnamed"  # stands where a name would
_APART = 75.0  # RGB distance from every colour that has a name: "red" is shaken by 12 levels a channel
_CONTRAST = 45  # of brightness, to the ground
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_GROUND = {False: 230.0, True: 53.0}  # light, dark


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
