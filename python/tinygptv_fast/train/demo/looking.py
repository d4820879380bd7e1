"""Look: the language model goes on learning, now mostly from pictures, through a projector that the stages go on with.

The stages train only projections, norms and LoRA. What a picture's rows do not say in words (which is larger, on which
side, how many of which sort) must be worked out inside the language model, and from rows that is another work than from
words. It is a departure from the paper, whose Phi-2 has read the world's text; see docs/training_the_demo.md.

The Q-Former learns with it, from the tower's kept patches, so that its rows say what the answers need; the heads stay
on them, at a small weight, so that every thing keeps its row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.randomness import generator
from ...data.world.sampler import training_scene
from ...data.world.scene import Scene
from ...reference.projector import Projector
from ..heads import Labels, TeachingHeads, seeing_loss
from ..optimizers import MuonAdamW
from ..precision import autocast
from .cache import Cache, open_patches
from .loop import Session, run_phase
from .pictures import SPARING, Eyes, things_of
from .recipe import ASKED, CACHED, LOOKED_AT, SEEING, SHOWN, DemoRecipe
from .rows import Conversation
from .stages import SmallExam
from .telling import Batch, Telling, conversation, told

_STREAM, _NOISE = 10, 11  # apart from those of telling and stages


@dataclass(frozen=True)
class Views:
    """What a step of phase "look" learns from. seen: file of patches → int64 [n], which of its pictures, and what there
    is on them. Conversations number the pictures through, in this order; those without are about a scene in words."""

    conversations: list[Conversation]
    seen: Mapping[str, tuple[np.ndarray, Labels]]


@dataclass(frozen=True)
class Looked:
    """The views of a step. caches: (whose pictures, what is asked of them, how many) of those taken in turn."""

    recipe: DemoRecipe
    caches: tuple[tuple[str, str, int], ...]

    def __call__(self, step: int) -> Views:
        recipe, many = self.recipe, self.recipe.look.pictures
        out: list[Conversation] = []
        asked: dict[str, list[tuple[Conversation, int, Scene]]] = {}
        for index in range(many):
            if generator(recipe.seed, _STREAM, step, index).random() >= recipe.looking:
                out.append(told(recipe, recipe.text.steps + step, index))  # where phase "text" has not been
                continue
            place, at = self.whose(step * many + index)
            pictures, shown, _ = self.caches[place]
            scene = training_scene(recipe.seed, pictures, 0, at)
            one = conversation(recipe, shown, scene, recipe.look.questions, _STREAM, step, index)
            if one.questions:
                asked.setdefault(pictures, []).append((one, at, scene))
        out = [one for one in out if one.questions]
        in_words = len(out)
        for group in asked.values():
            first = len(out) - in_words
            out += [replace(one, scene=None, picture=first + i) for i, (one, _, _) in enumerate(group)]
        seen = {
            pictures: (np.array([at for _, at, _ in group]), things_of([scene for _, _, scene in group]))
            for pictures, group in asked.items()
        }
        return Views(out, seen)

    def whose(self, position: int) -> tuple[int, int]:
        """The place of the cache whose turn it is, and the next of its pictures."""
        turn, place = divmod(position, len(self.caches))
        mine = self.caches[place]
        often, before = self.caches.count(mine), self.caches[:place].count(mine)
        return place, (turn * often + before) % mine[2]


class Looking(Telling):
    """The learner of phase "look". ``caches``: the pictures' patches, taken in turn, each with what is asked of it."""

    def __init__(self, recipe: DemoRecipe, device: torch.device, caches: list[tuple[Cache, str]]) -> None:
        super().__init__(recipe, device)
        self.settings, self.patches = recipe.look, {cache.shown: cache for cache, _ in caches}
        self.made = Looked(recipe, tuple((cache.shown, shown, len(cache)) for cache, shown in caches))
        width = recipe.model_config(recipe.small_size).text.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed + 2)
            self.projector = Projector(recipe.vision_width, width, recipe.projector_hidden).to(device)
            self.eyes = Eyes(recipe, recipe.queries).to(device)
            self.heads = TeachingHeads(SPARING, recipe.vision_width, recipe.vision_width).to(device)
        self.optimiser = self.new_optimiser()
        named = [(f"qformer.{name}", p) for name, p in self.eyes.qformer.named_parameters()]
        named += [(f"heads.{n}", p) for n, p in self.heads.named_parameters() if not n.startswith("cells.")]
        share = recipe.following
        self.follower = MuonAdamW(named, share * recipe.v5.muon_lr, share * recipe.v5.adam_lr)
        self.small_exam: SmallExam | None = None

    def begin(self, seen: Mapping[str, Any], said: Mapping[str, Any]) -> None:
        """Start from what "v5" and "text" handed on."""
        self.eyes.load_state_dict(seen["eyes"])
        self.heads.load_state_dict(seen["heads"])
        self.text.load_state_dict(said["text"])
        if "projector" in said:  # taken from a model that has looked
            assert self.projector is not None
            self.projector.load_state_dict(said["projector"])

    def batch(self, step: int) -> Batch:
        views: Views = self.made(step)
        if not views.seen:
            return Batch(views.conversations)
        total = sum(len(pictures) for pictures, _ in views.seen.values())
        rows: list[Tensor] = []
        beside = torch.zeros((), device=self.device)
        counted = 0.0
        with autocast(self.device):
            for name, (pictures, things) in views.seen.items():
                patches = self.patches[name].some(pictures).to(self.device)
                rows.append(self.eyes.qformer(patches.float()).float())
                named = seeing_loss(self.heads, None, rows[-1], things.to(self.device))
                beside = beside + self.recipe.naming * len(pictures) / total * named.total
                counted += len(pictures) / total * named.figures["counted"]
        figures = {"beside": beside.item(), "counted": counted}
        return Batch(views.conversations, self._shaken(torch.cat(rows), step), beside, figures)

    def _shaken(self, rows: Tensor, step: int) -> Tensor:
        """``rows`` [P, NQ, Q] with noise that falls with the rate: what is read is to be what stands out in them."""
        share = self.recipe.row_noise * self.settings.rate(step)
        random = torch.Generator().manual_seed(int(generator(self.recipe.seed, _NOISE, step).integers(1 << 62)))
        return rows + share * rows.detach().std() * torch.randn(rows.shape, generator=random).to(self.device)

    def learn(self, rate: float) -> None:
        super().learn(rate)
        self.follower.step(rate)

    def weights(self) -> dict[str, Any]:
        """The projector as one map: what the stages begin with."""
        assert self.projector is not None
        weight, bias = (tensor.detach().clone() for tensor in self.projector.folded())
        seen = {"eyes": self.eyes.state_dict(), "heads": self.heads.state_dict()}
        return {**super().weights(), "projector": {"weight": weight, "bias": bias}, **seen}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "follower": self.follower.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.eyes.load_state_dict(state["eyes"])
        self.heads.load_state_dict(state["heads"])
        self.follower.load_state_dict(state["follower"])

    def exam(self) -> dict[str, float]:
        assert self.small_exam is not None
        return self.small_exam.take()


def look(session: Session) -> None:
    """Run phase "look"."""
    recipe = session.recipe
    opened = {stage: (open_patches(session, CACHED[stage]), SHOWN[stage]) for stage in LOOKED_AT}
    learner = Looking(recipe, session.device, [opened[stage] for stage in LOOKED_AT])
    learner.begin(session.weights(SEEING[-1]), session.weights("text"))
    assert learner.projector is not None
    learner.small_exam = SmallExam(
        recipe, SHOWN["s4"], learner.eyes, learner.text, learner.projector, recipe.large_size
    )
    before = (SEEING[-1], "text", ASKED)
    run_phase(session, "look", learner, learner.settings.steps, before, learner.weights)
