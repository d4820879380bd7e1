"""Names that exist for one conversation: "dalu star" where a red one stands in the scene's text.

The world has 56 colour-shape pairs to train on, few enough to be learnt one by one. With names that change, a reader of
scenes in words has to find the thing whose words are those of the question, whatever they are. Held-out pairs are not
named here: a name is exchanged for one that means nothing, never for another of the world's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from ..colours import COLOURS
from ..randomness import pick
from .lexicon import (
    HELD_OUT_UNKNOWN,
    HELD_OUT_WORDS,
    SHAPES,
    SIZES,
    TEXT_SORTS,
    TEXTURES,
    TRAIN_UNKNOWN,
    TRAIN_WORDS,
    plural,
)
from .scene import Scene

_FIRST, _VOWELS = "bdfgklmnprstvz", "aeiou"
_EXCHANGED = 0.5  # of a scene's names
#: Every name there is.
KNOWN = frozenset(
    (
        *COLOURS,
        *SHAPES,
        *SIZES,
        *TEXTURES,
        *TEXT_SORTS,
        *TRAIN_WORDS,
        *HELD_OUT_WORDS,
        *TRAIN_UNKNOWN,
        *HELD_OUT_UNKNOWN,
    )
)


def made_up_word(rng: np.random.Generator) -> str:
    """Two syllables of no meaning: ``dalu``, ``tenov``."""
    while True:
        word = "".join(pick(rng, part) for part in (_FIRST, _VOWELS, _FIRST, _VOWELS))
        word += pick(rng, _FIRST) if rng.random() < 0.4 else ""
        if word not in KNOWN:
            return word


def renaming(rng: np.random.Generator, scene: Scene) -> dict[str, str]:
    """Half of the colours and shapes that ``scene`` shows, each with a made-up name of its own. What is not there keeps
    its name: a made-up one would be of something unknown."""
    there = sorted({t.shape for t in scene.shapes} | {t.colour for t in scene.things})
    names: dict[str, str] = {}
    for name in there:
        if rng.random() < _EXCHANGED:
            new = made_up_word(rng)
            while new in names.values():
                new = made_up_word(rng)
            names[name] = new
    return names


def rename(text: str, names: Mapping[str, str]) -> str:
    """``text`` with the names exchanged, one or many of them, and "an" before an orange one put right."""
    if not names:
        return text
    whole = {**names, **{plural(name): plural(new) for name, new in names.items() if name in SHAPES}}
    found = re.compile(r"\b(an? )?(" + "|".join(sorted(whole, key=len, reverse=True)) + r")\b")
    return found.sub(lambda match: ("a " if match[1] else "") + whole[match[2]], text)
