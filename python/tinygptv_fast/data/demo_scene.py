"""One picture to show and what to ask about it: the material of ``tinygptv demo``."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .questions import Question, ask
from .scenes import Scene, SceneSpec, draw, random_scene

DEMO_KINDS = ("colour", "count", "relation", "refer", "caption", "grounding")
DEMO_SIDE = 384
_DEMO_SPEC = SceneSpec(min_objects=3, max_objects=4, min_size=0.22)


def demo_scene(seed: int) -> tuple[Scene, list[Question]]:
    """A scene of three or four objects and one question of each of ``DEMO_KINDS``, all from ``seed`` (>= 0)."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 0xD3])))
    while True:
        scene = random_scene(rng, _DEMO_SPEC)
        questions = [ask(rng, scene, kind) for kind in DEMO_KINDS]
        found = [q for q in questions if q is not None]
        if len(scene.objects) >= 3 and len(found) == len(DEMO_KINDS):
            return scene, found


def draw_demo_scene(seed: int) -> tuple[Image.Image, list[tuple[str, str, str]]]:
    """A 384 x 384 RGB picture and, for each question about it, (question, task, true answer).

    ``task`` goes to ``TinyGPTV.generate(..., task=task)``; answers with boxes are in the text form
    ``{<x1><y1><x2><y2>}``, 0..100.
    """
    scene, questions = demo_scene(seed)
    return draw(scene, DEMO_SIDE), [(q.prompt, q.task, q.answer) for q in questions]
