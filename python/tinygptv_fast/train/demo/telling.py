"""T: the language model learns every task on scenes written as text, before it sees.

The stages train only projections, norms and LoRA, so counting, comparing and writing boxes must be learnt here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...data.question import Question, Turn
from ...data.randomness import generator
from ...data.world.asking import KINDS
from ...data.world.made_up import rename, renaming
from ...data.world.rewording import reworded
from ...data.world.sampler import STAGES, exam, questions_about, training_scene
from ...data.world.scene import Scene
from ...data.world.text import scene_text
from ...data.world_vocabulary import tokenizer_json
from ...processing.tokenizer import Tokenizer
from ...reference.model import TinyGPTVReference
from ...reference.projector import Projector
from ..coordinates import start_numbers
from ..optimizers import MuonAdamW
from ..precision import autocast
from .loop import Session, run_phase
from .recipe import SHOWN, DemoRecipe
from .rows import UNTAGGED, Conversation, RowWriter, answer_logits, answer_loss, quick_marks

_BUCKETS = 4
_STREAM = 8  # apart from the sampler's path elements
EXAM_SEED = 9_200_001


def conversation(recipe: DemoRecipe, shown: str, scene: Scene, questions: int, *path: int) -> Conversation:
    """Up to ``questions`` questions about ``scene``, put in many ways, and its text, in an order from ``path``."""
    rng = generator(recipe.seed, _STREAM, *path)
    asked = tuple(reworded(rng, q) for q in questions_about(rng, scene, replace(STAGES[shown], questions=questions)))
    keep = tuple(bool(rng.random() >= UNTAGGED) for _ in asked)
    return Conversation(asked, keep, scene_text(scene, rng))


def renamed(told: Conversation, names: dict[str, str]) -> Conversation:
    """``told`` with the names of the world exchanged for ``names`` throughout."""

    def turn(t: Turn) -> Turn:
        return Turn(t.task, rename(t.prompt, names), rename(t.answer, names))

    def one(q: Question) -> Question:
        history = tuple(turn(t) for t in q.history)
        return replace(q, prompt=rename(q.prompt, names), answer=rename(q.answer, names), history=history)

    assert told.scene is not None
    return replace(told, questions=tuple(one(q) for q in told.questions), scene=rename(told.scene, names))


def exam_conversations(
    per_kind: int, kinds: tuple[str, ...] = tuple(KINDS), *, texts: float = 0.3
) -> list[tuple[Scene, Conversation]]:
    """A small held-out exam on scenes as text: questions of every kind without history. ``texts``: share of the scenes
    with drawn text where the kind leaves a choice."""
    out = []
    for item in exam(EXAM_SEED, [kind for kind in kinds if kind != "dialogue"], per_kind, texts=texts):
        out.append((item.scene, Conversation((item.question,), (True,), scene_text(item.scene))))
    return out


def told(recipe: DemoRecipe, step: int, index: int) -> Conversation:
    """Conversation ``index`` of a step about a scene in words: one to seven questions, four in the mean, so that the
    first one, right behind the scene, is common."""
    shown = SHOWN["text"]
    scene = training_scene(recipe.seed, shown, step, index)
    rng = generator(recipe.seed, _STREAM, 2, step, index)
    many = 1 + int(rng.integers(2 * recipe.text.questions - 1))
    plain = conversation(recipe, shown, scene, many, step, index)
    return renamed(plain, renaming(rng, scene)) if rng.random() < recipe.made_up else plain


@dataclass(frozen=True)
class Told:
    """The conversations of a step of phase "text"."""

    recipe: DemoRecipe

    def __call__(self, step: int) -> list[Conversation]:
        found = [told(self.recipe, step, index) for index in range(self.recipe.text.pictures)]
        return [one for one in found if one.questions]


@dataclass(frozen=True)
class Batch:
    """What a step learns from: ``conversations``, the rows [P, NQ, Q] of the pictures they look at, and a loss that
    comes on top of that of the answers; ``figures`` are logged."""

    conversations: list[Conversation]
    visual: Tensor | None = None
    beside: Tensor | None = None
    figures: Mapping[str, float] = field(default_factory=dict)


class Telling:
    """The learner of phase "text"."""

    def __init__(self, recipe: DemoRecipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.settings = recipe.text
        self.made: Callable[[int], Any] = Told(recipe)
        self.writer = RowWriter(Tokenizer.from_string(tokenizer_json()), recipe.queries)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed + 1)
            model = TinyGPTVReference(recipe.model_config(recipe.small_size))
            nn.init.normal_(model.text.embed.weight, std=0.5)
            start_numbers(model, self.writer.numbers.tolist())
        self.text = model.text.to(device)
        self.projector: Projector | None = None
        self.optimiser = self.new_optimiser()
        self.numbers = self.writer.numbers.to(device)
        self._asked: list[Conversation] = []

    def new_optimiser(self) -> MuonAdamW:
        named = [(f"text.{n}", p) for n, p in self.text.named_parameters()]
        if self.projector is not None:
            named += [(f"projector.{n}", p) for n, p in self.projector.named_parameters()]
        return MuonAdamW(named, self.settings.muon_lr, self.settings.adam_lr)

    def step(self, step: int) -> dict[str, float]:
        batch = self.batch(step)
        buckets = self.writer.write(batch.conversations, _BUCKETS)
        loss = torch.zeros((), device=self.device)
        # One way back for all buckets: each weight is cast, and its gradient cast back, once a step.
        with autocast(self.device):
            for rows in buckets:
                there = rows.to(self.device)
                logits = answer_logits(self.text, self.projector, batch.visual, there)
                loss = loss + answer_loss(logits, there, self.numbers)
        loss = loss / sum(float(rows.weight.sum()) for rows in buckets)
        (loss if batch.beside is None else loss + batch.beside).backward()
        self.learn(self.settings.rate(step))
        return {"loss": loss.item(), "tokens": sum(rows.ids.numel() for rows in buckets), **batch.figures}

    def batch(self, step: int) -> Batch:
        """What step ``step`` learns from."""
        return Batch(self.made(step))

    def learn(self, rate: float) -> None:
        """Take the step whose gradients are there."""
        self.optimiser.step(rate)

    @torch.no_grad()
    def exam(self) -> dict[str, float]:
        if not self._asked:
            self._asked = [one for _, one in exam_conversations(self.recipe.exam)]
        with autocast(self.device):
            kinds = quick_marks(self.writer, self.text, None, None, self._asked)
        return {"mean": round(sum(kinds.values()) / len(kinds), 4), **kinds}

    def state_dict(self) -> dict[str, Any]:
        seen = {} if self.projector is None else {"projector": self.projector.state_dict()}
        return {**self.weights(), **seen, "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.text.load_state_dict(state["text"])
        if self.projector is not None:
            self.projector.load_state_dict(state["projector"])
        self.optimiser.load_state_dict(state["optimiser"])

    def weights(self) -> dict[str, Any]:
        return {"text": self.text.state_dict()}


def tell(session: Session) -> None:
    """Run phase "text"."""
    learner = Telling(session.recipe, session.device)
    run_phase(session, "text", learner, learner.settings.steps, (), learner.weights)
