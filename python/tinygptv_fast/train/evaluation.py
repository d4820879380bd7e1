"""An exam: questions about pictures the model has never seen, answered greedily, scored kind by kind.

The same exam is given with every picture replaced by plain grey: what is right then is guessing, not seeing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.questions import KINDS, Question, ask
from ..data.randomness import generator
from ..data.scenes import FULL, Scene, SceneSpec, draw, random_scene
from ..data.scoring import is_right
from ..reference.generation import GenerationOptions, generate
from ..reference.model import TinyGPTVReference
from .batches import RowEncoder, normalise

EXAM_SEED = 9_000_001  # training draws from streams of the recipe's seed; no training picture comes from this one
CANVAS = 256
GREY = (200, 200, 200)


@dataclass(frozen=True)
class ExamItem:
    """One question about one scene."""

    scene: Scene
    question: Question


def make_exam(per_kind: int, seed: int = EXAM_SEED, spec: SceneSpec = FULL) -> list[ExamItem]:
    """``per_kind`` questions of each kind, every one about its own picture."""
    items = []
    for number, kind in enumerate(KINDS):
        rng = generator(seed, number)
        found = 0
        while found < per_kind:
            scene = random_scene(rng, spec)
            question = ask(rng, scene, kind)
            if question is not None:
                items.append(ExamItem(scene, question))
                found += 1
    return items


def picture(item: ExamItem, grey: bool = False) -> Image.Image:
    """The exam's picture, 256 x 256 RGB; plain grey for the control."""
    return Image.new("RGB", (CANVAS, CANVAS), GREY) if grey else draw(item.scene, CANVAS)


@torch.no_grad()
def see_all(model: TinyGPTVReference, items: Sequence[ExamItem], grey: bool, batch: int = 64) -> Tensor:
    """Visual tokens of every item, f32 [items, NQ, C]."""
    assert model.config.vision is not None
    size = model.config.vision.image_size
    out = []
    for start in range(0, len(items), batch):
        part = [
            picture(item, grey).resize((size, size), Image.Resampling.BICUBIC) for item in items[start : start + batch]
        ]
        out.append(model.encode_image(normalise([np.asarray(image) for image in part])))
    return torch.cat(out)


@torch.no_grad()
def answer_all(
    model: TinyGPTVReference, encoder: RowEncoder, items: Sequence[ExamItem], grey: bool = False, batch: int = 64
) -> list[str]:
    """Greedy answers. Rows of one prompt length are batched, so no padding enters the computation."""
    visual = see_all(model, items, grey)
    prompts = [encoder.prompt(item.question) for item in items]
    by_length: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, (item, (before, after)) in enumerate(zip(items, prompts, strict=True)):
        by_length[len(before) + len(after), len(item.question.answer) // 16].append(index)
    answers = [""] * len(items)
    options = GenerationOptions(max_new_tokens=80, eos_ids=(encoder.end,), pad_id=encoder.end)
    for group in by_length.values():
        for start in range(0, len(group), batch):
            part = group[start : start + batch]
            before = model.text.embed(torch.tensor([prompts[i][0] for i in part]))
            after = model.text.embed(torch.tensor([prompts[i][1] for i in part]))
            embeds = torch.cat([before, visual[part], after], dim=1)
            for index, ids in zip(part, generate(model.text, embeds, None, options).ids, strict=True):
                answers[index] = encoder.tokenizer.decode(ids)
    return answers


def score(items: Sequence[ExamItem], answers: Sequence[str]) -> dict[str, Any]:
    """``{"questions": n, "accuracy": mean over kinds, "kinds": {kind: accuracy}}``, accuracies 0..1."""
    right: dict[str, list[bool]] = defaultdict(list)
    for item, answer in zip(items, answers, strict=True):
        right[item.question.kind].append(is_right(item.question, answer))
    kinds = {kind: round(sum(marks) / len(marks), 4) for kind, marks in right.items()}
    return {"questions": len(items), "accuracy": round(sum(kinds.values()) / len(kinds), 4), "kinds": kinds}


def examine(
    model: TinyGPTVReference,
    encoder: RowEncoder,
    per_kind: int,
    *,
    grey: bool = False,
    spec: SceneSpec = FULL,
    seed: int = EXAM_SEED,
) -> dict[str, Any]:
    """Make the exam, answer it, score it."""
    items = make_exam(per_kind, seed, spec)
    return score(items, answer_all(model, encoder, items, grey))
