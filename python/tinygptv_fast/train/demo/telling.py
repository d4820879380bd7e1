"""T: the language model learns every task on scenes written as text, before it sees.

The stages train only projections, norms and LoRA, so counting, comparing and writing boxes must be learnt here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...data.randomness import generator
from ...data.world.asking import KINDS
from ...data.world.sampler import STAGES, exam, questions_about, training_scene
from ...data.world.scene import Scene
from ...data.world.text import scene_text
from ...data.world_vocabulary import tokenizer_json
from ...processing.tokenizer import Tokenizer
from ...reference.model import TinyGPTVReference
from ...reference.projector import Projector
from ..coordinates import start_numbers
from ..optimizers import MuonAdamW
from .cache import Cache, open_cache
from .loop import Session, run_phase
from .recipe import SHOWN, DemoRecipe
from .rows import UNTAGGED, Conversation, RowWriter, answer_logits, answer_loss, quick_marks

QUERIES = 16
_BUCKETS = 4
_STREAM = 8  # apart from the sampler's path elements
EXAM_SEED = 9_200_001


def conversation(recipe: DemoRecipe, shown: str, scene: Scene, questions: int, *path: int) -> Conversation:
    """Up to ``questions`` questions about ``scene`` and its text, in an order drawn from ``path``."""
    rng = generator(recipe.seed, _STREAM, *path)
    asked = questions_about(rng, scene, replace(STAGES[shown], questions=questions))
    keep = tuple(bool(rng.random() >= UNTAGGED) for _ in asked)
    return Conversation(asked, keep, scene_text(scene, rng))


def exam_conversations(
    per_kind: int, kinds: tuple[str, ...] = tuple(KINDS), *, texts: float = 0.3
) -> list[tuple[Scene, Conversation]]:
    """A small held-out exam on scenes as text: questions of every kind without history. ``texts``: share of the scenes
    with drawn text where the kind leaves a choice."""
    out = []
    for item in exam(EXAM_SEED, [kind for kind in kinds if kind != "dialogue"], per_kind, texts=texts):
        out.append((item.scene, Conversation((item.question,), (True,), scene_text(item.scene))))
    return out


class Telling:
    """The learner of phase "text". ``cache``: pictures for the rows that look, if there are to be some."""

    def __init__(self, recipe: DemoRecipe, device: torch.device, cache: Cache | None) -> None:
        self.recipe, self.device, self.cache = recipe, device, cache
        self.settings = recipe.text
        self.writer = RowWriter(Tokenizer.from_string(tokenizer_json()), QUERIES)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed + 1)
            self.model = TinyGPTVReference(recipe.model_config(recipe.small_size))
            nn.init.normal_(self.model.text.embed.weight, std=0.5)
            start_numbers(self.model, self.writer.numbers.tolist())
            width = recipe.model_config(recipe.small_size).text.width
            self.projector = Projector(recipe.vision_width, width, recipe.projector_hidden)  # thrown away at the end
        self.text = self.model.text.to(device)
        self.projector.to(device)
        named = [(f"text.{n}", p) for n, p in self.text.named_parameters()]
        if cache is not None:
            named += [(f"projector.{n}", p) for n, p in self.projector.named_parameters()]
        self.optimiser = MuonAdamW(named, self.settings.muon_lr, self.settings.adam_lr)
        self.numbers = self.writer.numbers.to(device)
        self._asked: list[Conversation] = []

    def step(self, step: int) -> dict[str, float]:
        conversations, visual = self._batch(step)
        buckets = self.writer.write(conversations, _BUCKETS)
        whole = sum(float(rows.weight.sum()) for rows in buckets)
        total, tokens = 0.0, 0
        for rows in buckets:
            there = rows.to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16):
                logits = answer_logits(self.text, self.projector, visual, there)
                loss = answer_loss(logits, there, self.numbers) / whole
            loss.backward()
            total += loss.item()
            tokens += rows.ids.numel()
        self.optimiser.step(self.settings.rate(step))
        return {"loss": total, "tokens": tokens}

    def _batch(self, step: int) -> tuple[list[Conversation], Tensor | None]:
        recipe = self.recipe
        out: list[Conversation] = []
        looks: list[Tensor] = []
        for index in range(self.settings.pictures):
            if (
                self.cache is not None
                and generator(recipe.seed, _STREAM, 1, step, index).random() < recipe.visual_share
            ):
                at = (step * self.settings.pictures + index) % len(self.cache)
                scene = training_scene(recipe.seed, self.cache.shown, 0, at)
                asked = conversation(recipe, "instruct", scene, self.settings.questions, step, index)
                out.append(replace(asked, scene=None, picture=len(looks)))
                looks.append(self.cache.rows(at))
            else:
                shown = SHOWN["text"]
                scene = training_scene(recipe.seed, shown, step, index)
                # One to seven questions, four in the mean: so that the first one, right behind the scene, is common.
                many = 1 + int(
                    generator(recipe.seed, _STREAM, 2, step, index).integers(2 * self.settings.questions - 1)
                )
                out.append(conversation(recipe, shown, scene, many, step, index))
        out = [one for one in out if one.questions]
        return out, torch.stack(looks).to(self.device) if looks else None

    @torch.no_grad()
    def exam(self) -> dict[str, float]:
        if not self._asked:
            self._asked = [one for _, one in exam_conversations(self.recipe.exam)]
        with torch.autocast(self.device.type, torch.bfloat16):
            kinds = quick_marks(self.writer, self.text, None, None, self._asked)
        return {"mean": round(sum(kinds.values()) / len(kinds), 4), **kinds}

    def state_dict(self) -> dict[str, Any]:
        return {**self.weights(), "projector": self.projector.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.text.load_state_dict(state["text"])
        self.projector.load_state_dict(state["projector"])
        self.optimiser.load_state_dict(state["optimiser"])

    def weights(self) -> dict[str, Any]:
        return {"text": self.text.state_dict()}


def tell(session: Session) -> None:
    """Run phase "text"."""
    looking = session.recipe.visual_share > 0
    cache = open_cache(session, "pretrain") if looking else None
    learner = Telling(session.recipe, session.device, cache)
    run_phase(session, "text", learner, learner.settings.steps, ("cache64",) if looking else (), learner.weights)
