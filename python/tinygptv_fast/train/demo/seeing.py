"""V1a, V1b, V2, V3, V4 (and what V5 shares with them): the vision side learns under throw-away heads, with no words.

In V4 its rows learn to say where things are so that one linear map can read it, and colours and shapes come apart: a
third of what is drawn has no name. It may start from the vision side of a directory, which has no heads (``start.py``):
they catch up first, alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..heads import Labels, SeeingLoss, TeachingHeads, seeing_loss
from ..optimizers import MuonAdamW
from ..precision import autocast
from .loop import Session, run_phase
from .pictures import PLACING, READING, SPARING, TEACHING, Eyes, labels_of, pixels_of, scenes_of
from .recipe import SEEING, SHOWN, DemoRecipe

_EXAM_STEP = 1 << 30  # of the sampler's path: far behind every step of training
_EXAM_BATCH = 64
_LARGE = ("v2", "v3", "v4", "v5")
_HEADS_ALONE = 600
_EXAMINED = SHOWN | {"v4": "multitask", "v5": "multitask"}  # what is to be seen in the end
_TAUGHT = {"v3": READING, "v4": PLACING, "v5": SPARING}  # TEACHING before


@dataclass(frozen=True)
class Drawn:
    """The pictures of a step, f32 [B, 3, S, S], and their labels."""

    recipe: DemoRecipe
    phase: str

    def size(self, step: int) -> int:
        """From V2 on the large size but for every fourth step."""
        if self.phase not in _LARGE or self.recipe.is_small(step):
            return self.recipe.small_size
        return self.recipe.large_size

    def __call__(self, step: int) -> tuple[Tensor, Labels]:
        recipe, size = self.recipe, self.size(step)
        # A small picture costs a quarter: it comes in twice the number, and those of one step are all of one size.
        small = self.phase in _LARGE and size == recipe.small_size
        count = recipe.phase(self.phase).pictures * (2 if small else 1)
        scenes = scenes_of(recipe, "full" if small else SHOWN[self.phase], step, range(count))
        return pixels_of(recipe, scenes, size, SEEING.index(self.phase), step), labels_of(scenes, size // 8)


class Seeing:
    """The learner of one of the phases. ``queries``: where they are not the recipe's first ones."""

    def __init__(self, recipe: DemoRecipe, phase: str, device: torch.device, queries: int | None = None) -> None:
        self.recipe, self.phase, self.device = recipe, phase, device
        self.settings = recipe.phase(phase)
        self.made: Callable[[int], Any] = Drawn(recipe, phase)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.eyes = Eyes(recipe, recipe.first_queries if queries is None else queries).to(device)
            width = recipe.vision_width
            self.heads = TeachingHeads(_TAUGHT.get(phase, TEACHING), width, width).to(device)
        self.alone = 0  # first steps, in which only the heads learn
        named = [*self.eyes.named_parameters(), *((f"heads.{n}", p) for n, p in self.heads.named_parameters())]
        self.optimiser = MuonAdamW(named, self.settings.muon_lr, self.settings.adam_lr)
        self._exams: dict[tuple[int, int], tuple[Tensor, Labels]] = {}

    def step(self, step: int) -> dict[str, float]:
        drawn, named = self.made(step)
        pixels, labels = drawn.to(self.device), named.to(self.device)
        with autocast(self.device):
            loss = self._loss(pixels, labels, still=step < self.alone)
        loss.total.backward()
        return self.learn(step, loss)

    def learn(self, step: int, loss: SeeingLoss) -> dict[str, float]:
        """Take the step whose gradients are there; the figures of it that are logged."""
        self.optimiser.step(self.settings.rate(step))
        shown_figures = ("shape", "colour", "located", "counted", "edges")
        figures = {name: loss.figures[name] for name in shown_figures if name in loss.figures}
        return {"loss": loss.total.item(), **figures}

    def _loss(self, pixels: Tensor, labels: Labels, still: bool = False) -> SeeingLoss:
        """``still``: the vision side learns nothing."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not still):
            patches = self.eyes.patches(pixels)
            rows = self.eyes.qformer(patches)
        return seeing_loss(self.heads, patches[:, 1:], rows, labels)

    @torch.no_grad()
    def exam(self) -> dict[str, float]:
        """Figures on pictures of their own, at each size the phase teaches."""
        out: dict[str, float] = {}
        sizes = [self.recipe.small_size]
        if self.phase in _LARGE:
            sizes.append(self.recipe.large_size)
        for size in sizes:
            shown = "full" if self.phase in _LARGE and size == self.recipe.small_size else _EXAMINED[self.phase]
            tail = f"_{size}" if len(sizes) > 1 else ""
            out |= {f"{name}{tail}": value for name, value in self._marks(size, shown).items()}
        return out

    def _marks(self, size: int, shown: str) -> dict[str, float]:
        count = 16 * self.recipe.exam
        sums: dict[str, float] = {}
        for start in range(0, count, _EXAM_BATCH):
            indices = range(start, min(start + _EXAM_BATCH, count))
            pixels, labels = self._exam_batch(size, shown, indices)
            with autocast(self.device):
                figures = self._loss(pixels, labels).figures
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value * len(indices)
        letters = [value for name, value in sums.items() if name.startswith("letter")]
        kept = {name: value for name, value in sums.items() if not name.startswith("letter")}
        if shown in ("words", "reading", "multitask"):
            kept["letters"] = sum(letters) / len(letters)
        return {name: round(value / count, 4) for name, value in kept.items()}

    def _exam_batch(self, size: int, shown: str, indices: Sequence[int]) -> tuple[Tensor, Labels]:
        key = size, indices[0]
        if key not in self._exams:
            scenes = scenes_of(self.recipe, shown, _EXAM_STEP, indices)
            pixels = pixels_of(self.recipe, scenes, size, len(SEEING), indices[0])
            self._exams[key] = pixels.to(self.device), labels_of(scenes, size // 8).to(self.device)
        return self._exams[key]

    def state_dict(self) -> dict[str, Any]:
        return {**self.weights(), "alone": self.alone, "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.begin(state)
        self.alone = int(state["alone"])
        self.optimiser.load_state_dict(state["optimiser"])

    def begin(self, weights: dict[str, Any]) -> None:
        """Start from what an earlier phase handed on; without heads, if it was taken from a directory."""
        self.eyes.load_state_dict(weights["eyes"])
        self.alone = 0 if "heads" in weights else min(_HEADS_ALONE, self.settings.steps)
        if "heads" not in weights:
            return
        heads = dict(weights["heads"])
        if self.heads.edges is not None:  # V3 had none
            heads = {f"edges.{n}": p for n, p in self.heads.edges.state_dict().items()} | heads
        self.heads.load_state_dict(heads)

    def weights(self) -> dict[str, Any]:
        return {"eyes": self.eyes.state_dict(), "heads": self.heads.state_dict()}


def see(session: Session, phase: str) -> None:
    """Run one of the phases."""
    before = SEEING[: SEEING.index(phase)][-1:]
    handed = [session.weights(earlier) for earlier in before]
    learner = Seeing(session.recipe, phase, session.device, *(queries_of(one["eyes"]) for one in handed))
    for one in handed:
        learner.begin(one)
    run_phase(session, phase, learner, learner.settings.steps, before, learner.weights)


def queries_of(eyes: dict[str, Tensor]) -> int:
    """How many there are in a state of ``Eyes``."""
    return len(eyes["qformer.query_tokens"])


def load_eyes(session: Session, phase: str = "look") -> Eyes:
    """The vision side as ``phase`` left it, the last in which it learns if none is named, on the session's device."""
    state = session.weights(phase)["eyes"]
    eyes = Eyes(session.recipe, queries_of(state))
    eyes.load_state_dict(state)
    return eyes.to(session.device).eval()
