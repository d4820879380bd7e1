"""Look: the language model goes on learning, now mostly from pictures, through a projector that the stages go on with.

The stages train only projections, norms and LoRA. What a picture's rows do not say in words (which is larger, on which
side, how many of which sort) must be worked out inside the language model, and from rows that is another work than from
words. It is a departure from the paper, whose Phi-2 has read the world's text; see docs/training_the_demo.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...data.randomness import generator
from ...data.world.sampler import training_scene
from ...reference.projector import Projector
from .cache import Cache, open_cache
from .loop import Session, run_phase
from .recipe import CACHED, CACHES, LOOKED_AT, SHOWN, DemoRecipe
from .rows import Conversation
from .stages import SmallExam
from .telling import Telling, conversation, told

_STREAM, _NOISE = 10, 11  # apart from those of telling and stages


@dataclass(frozen=True)
class Looked:
    """The conversations of a step of phase "look", each with (place of its cache, picture in it), or None for one about
    a scene in words. caches: (whose pictures, what is asked of them, how many) of those that are taken in turn."""

    recipe: DemoRecipe
    caches: tuple[tuple[str, str, int], ...]

    def __call__(self, step: int) -> list[tuple[Conversation, tuple[int, int] | None]]:
        recipe, many = self.recipe, self.recipe.look.pictures
        out: list[tuple[Conversation, tuple[int, int] | None]] = []
        for index in range(many):
            if generator(recipe.seed, _STREAM, step, index).random() >= recipe.looking:
                out.append((told(recipe, recipe.text.steps + step, index), None))  # where phase "text" has not been
                continue
            place, at = self.whose(step * many + index)
            pictures, shown, _ = self.caches[place]
            scene = training_scene(recipe.seed, pictures, 0, at)
            asked = conversation(recipe, shown, scene, recipe.look.questions, _STREAM, step, index)
            out.append((replace(asked, scene=None), (place, at)))
        return [one for one in out if one[0].questions]

    def whose(self, position: int) -> tuple[int, int]:
        """The place of the cache whose turn it is, and the next of its pictures."""
        turn, place = divmod(position, len(self.caches))
        mine = self.caches[place]
        often, before = self.caches.count(mine), self.caches[:place].count(mine)
        return place, (turn * often + before) % mine[2]


class Looking(Telling):
    """The learner of phase "look". ``caches``: the pictures, taken in turn, each with what is asked of it."""

    def __init__(self, recipe: DemoRecipe, device: torch.device, caches: list[tuple[Cache, str]]) -> None:
        super().__init__(recipe, device)
        self.settings, self.caches = recipe.look, caches
        self.made = Looked(recipe, tuple((cache.shown, shown, len(cache)) for cache, shown in caches))
        width = recipe.model_config(recipe.small_size).text.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed + 2)
            self.projector = Projector(recipe.vision_width, width, recipe.projector_hidden).to(device)
        self.optimiser = self.new_optimiser()
        self.small_exam: SmallExam | None = None

    def batch(self, step: int) -> tuple[list[Conversation], Tensor | None]:
        out: list[Conversation] = []
        looks: list[Tensor] = []
        for one, seen in self.made(step):
            if seen is None:
                out.append(one)
                continue
            place, at = seen
            out.append(replace(one, picture=len(looks)))
            looks.append(self.caches[place][0].rows(at))
        return out, self._shaken(torch.stack(looks), step).to(self.device) if looks else None

    def _shaken(self, rows: Tensor, step: int) -> Tensor:
        """``rows`` [P, NQ, Q] with noise that falls with the rate: what is read is to be what stands out in them."""
        share = self.recipe.row_noise * self.settings.rate(step)
        random = torch.Generator().manual_seed(int(generator(self.recipe.seed, _NOISE, step).integers(1 << 62)))
        return rows + share * rows.std() * torch.randn(rows.shape, generator=random)

    def weights(self) -> dict[str, Any]:
        """The projector as one map: what the stages begin with."""
        assert self.projector is not None
        weight, bias = (tensor.detach().clone() for tensor in self.projector.folded())
        return {**super().weights(), "projector": {"weight": weight, "bias": bias}}

    def exam(self) -> dict[str, float]:
        assert self.small_exam is not None
        return self.small_exam.take()


def look(session: Session) -> None:
    """Run phase "look"."""
    recipe = session.recipe
    opened = {stage: (open_cache(session, CACHED[stage]), SHOWN[stage]) for stage in LOOKED_AT}
    caches = [opened[stage] for stage in LOOKED_AT]
    learner = Looking(recipe, session.device, caches)
    told_before = session.weights("text")
    learner.text.load_state_dict(told_before["text"])
    assert learner.projector is not None
    if "projector" in told_before:  # taken from a model that has looked
        learner.projector.load_state_dict(told_before["projector"])
    learner.small_exam = SmallExam(session, SHOWN["s4"], learner.text, learner.projector, recipe.large_size)
    run_phase(session, "look", learner, learner.settings.steps, ("text", *CACHES), learner.weights)
