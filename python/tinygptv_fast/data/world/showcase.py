"""One picture that shows what the demo model can do, and what to ask about it: the material of ``tinygptv demo``."""

from __future__ import annotations

import numpy as np

from ..question import Question
from ..randomness import generator, pick
from .asking import ask
from .sampler import Example
from .sampling import SceneSpec, random_scene
from .scene import Scene

SHOWCASE_SIDE = 384  # pixels of the longer side
#: A question of each: one of these kinds, in this order.
SHOWCASE = (
    ("colour", "shape", "texture", "size"),
    ("count",),
    ("side", "relation"),
    ("word",),
    ("refer",),
    ("absent",),
)
_SPEC = SceneSpec(min_things=3, max_things=5, texts=1.0)
_STREAM = 77  # first element of the path: no training picture and no examination comes from it


def showcase(seed: int) -> Example:
    """Three to five things, one of them a word, and a question for each entry of ``SHOWCASE``, all from ``seed``."""
    tries = 0
    while True:
        rng = generator(seed, _STREAM, tries)
        tries += 1
        scene = random_scene(rng, _SPEC)
        found = [_one_of(rng, scene, kinds) for kinds in SHOWCASE]
        questions = tuple(question for question in found if question is not None)
        if len(scene.things) >= _SPEC.min_things and len(questions) == len(SHOWCASE):
            return Example(scene, questions)


def _one_of(rng: np.random.Generator, scene: Scene, kinds: tuple[str, ...]) -> Question | None:
    """A question of one of ``kinds``, of another one where the scene has none of the first drawn."""
    first = pick(rng, kinds)
    for kind in (first, *(other for other in kinds if other != first)):
        question = ask(rng, scene, kind)
        if question is not None:
            return question
    return None
