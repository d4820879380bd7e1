"""A scene in words with coordinates: what the language model reads before it can see."""

from __future__ import annotations

import numpy as np

from .outside import GROUNDS
from .scene import Scene, Thing, box_text, left_to_right


def scene_text(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """``large striped red star {<12><40><35><61>}, red word cat {<..>}``: all that questions can be about.

    From left to right; with ``rng`` in an order drawn from it, so that a reader learns to look at the numbers.
    """
    things = left_to_right(scene)
    if not things:
        return GROUNDS[scene.background.kind]
    if rng is not None:
        things = [things[i] for i in rng.permutation(len(things))]
    return ", ".join(f"{thing_text(thing)} {box_text(thing.box)}" for thing in things)


def thing_text(thing: Thing) -> str:
    """Every attribute: ``large striped red star``, ``small plain blue ring``, ``red word cat``."""
    words = (thing.size, thing.texture, thing.colour, thing.shape, thing.text)
    return " ".join(word for word in words if word)
