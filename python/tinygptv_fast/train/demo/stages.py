"""S1 to S4: the paper's stages on cached rows, run by ``train.stages``. Projections, norms and (from S2) LoRA learn.

Changed from the paper: rates, lengths and ranks fit the small model; every stage is asked questions in the template the
model answers in, without BOS; rows weigh 1/sqrt of their length and coordinates have blurred labels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...conversion import write_model
from ...data.bpe import END
from ...data.question import Question
from ...data.randomness import generator
from ...data.world.rewording import reworded
from ...data.world.sampler import STAGES as WORLD
from ...data.world.sampler import questions_about, training_scene
from ...data.world_vocabulary import TEMPLATE, tokenizer_json
from ...processing.image import ImageProcessor
from ...processing.tokenizer import Tokenizer
from ...reference.phi import PhiBackbone
from ..precision import autocast
from ..stages.config import AUTO, StageConfig, load_stage
from ..stages.examples import Example, Turn
from ..stages.run import ADAPTER, train_stage
from ..stages.start import open_start
from ..stages.state import STATE_FILE
from ..stages.step import Figures
from .ahead import ahead
from .cache import Cache, open_cache
from .loop import LOG_EVERY, Bar, Paused, Session, append_line
from .pictures import Eyes, pixels_of
from .recipe import CACHED, SHOWN, STAGES, DemoRecipe
from .rows import SIGMA, UNTAGGED, Conversation, RowWriter, quick_marks, tagged, turns_of
from .seeing import load_eyes
from .telling import exam_conversations

_STREAM = 9
_EXAMS = 6
_EXAM_PATH = 5
_SEEN_AT_ONCE = 64


def stage_config(recipe: DemoRecipe, phase: str) -> StageConfig:
    """The paper's config of the stage with this recipe's changes."""
    plan, number = recipe.plan(phase), STAGES.index(phase) + 1
    changes: dict[str, Any] = {
        "image_size": recipe.large_size if phase == "s4" else recipe.small_size,
        "lora_rank": 0 if phase == "s1" else recipe.lora_rank,
        "lora_alpha": float(recipe.lora_rank),
        "lora_dropout": 0.0,
        "projector_hidden": None,
        "fresh_projector": False,
        "layout": "inference",
        "template": TEMPLATE,
        "end_symbol": END,
        "max_answer": 400,
        "prompts": [],
        "one_prompt_per_batch": False,
        "row_weight": "sqrt",
        "coordinate_sigma": SIGMA,
        "batch_size": plan.pictures * plan.questions,
        "accumulation": 3,
        "epochs": 1,
        "steps_per_epoch": plan.steps,
        "repeats": 1,
        "init_lr": plan.lr,
        "min_lr": plan.lr / 10,
        "warmup_steps": max(1, min(100, plan.steps // 10)),
        "warmup_start_lr": plan.lr / 100,
        "clip_norm": 1.0,
        "weight_decay": 0.01,
        "betas": [0.9, 0.98],
        "precision": AUTO,
        "recompute": False,
        "ratios": {},
        "seed": recipe.seed,
        "save_every": 200,
    }
    return load_stage(number, changes=changes)


Asked = list[tuple[int, Question, bool]]  # (index in the cache, question, with its tag)


@dataclass(frozen=True)
class Asking:
    """What is asked in a step of a stage: each of the ``count`` pictures of ``cached`` once before any comes again, and
    every time something else."""

    recipe: DemoRecipe
    phase: str
    cached: str
    count: int
    pictures: int
    questions: int

    def __call__(self, step: int) -> Asked:
        out: Asked = []
        number = tuple(SHOWN).index(self.phase)
        stage = replace(WORLD[SHOWN[self.phase]], questions=self.questions)
        for place in range(self.pictures):
            rng = generator(self.recipe.seed, _STREAM, number, step, place)
            at = self._index(step * self.pictures + place, number)
            scene = training_scene(self.recipe.seed, self.cached, 0, at)
            for question in questions_about(rng, scene, stage):
                out.append((at, reworded(rng, question), bool(rng.random() >= UNTAGGED)))
        return out

    def _index(self, position: int, number: int) -> int:
        """A walk through all pictures with a stride that shares no divisor with their number, another each round."""
        count = self.count
        around, at = divmod(position, count)
        rng = generator(self.recipe.seed, _STREAM, number, 1 << 40, around)
        return int((rng.permutation(count)[at]) if count <= 4096 else _stride_walk(rng, count, at))


@dataclass(frozen=True)
class CachedQuestions:
    """The ``Batches`` of a stage: rows of ``cache`` with what ``made`` asks about them."""

    phase: str
    cache: Cache
    digest: str
    made: Callable[[int], Asked]

    def batch(self, step: int) -> list[Example]:
        rows: dict[int, torch.Tensor] = {}
        out = []
        for at, question, keep in self.made(step):
            if at not in rows:
                rows[at] = self.cache.rows(at)
            turns = tuple(
                Turn(tagged(turn, keep or bool(question.history)), turn.answer) for turn in turns_of(question)
            )
            out.append(Example(turns, (rows[at],), where=f"{self.phase} picture {at}"))
        return out


def _stride_walk(rng: Any, count: int, at: int) -> int:
    """Place ``at`` of a permutation of 0..count-1 that needs no table: start + at · stride mod count."""
    start = int(rng.integers(count))
    while True:
        stride = int(rng.integers(count // 3, count))
        a, b = stride, count
        while b:
            a, b = b, a % b
        if a == 1:
            return (start + at * stride) % count


def batches_of(session: Session, phase: str) -> CachedQuestions:
    """What ``phase`` (a stage or "finish") learns from."""
    recipe = session.recipe
    plan = recipe.finish if phase == "finish" else recipe.plan(phase)
    cache = open_cache(session, CACHED[phase])
    source = "cache128" if CACHED[phase] == "multitask" else "cache64"
    digest = hashlib.sha256(f"{phase} {session.digest(phase, source)}".encode()).hexdigest()
    asking = Asking(recipe, phase, cache.shown, len(cache), plan.pictures, plan.questions)
    return CachedQuestions(phase, cache, digest, asking)


def write_base(session: Session, size: int, out: Path) -> None:
    """What the stages start from: vision side, language model and projector as a directory."""
    recipe = session.recipe
    config = recipe.model_config(size)
    eyes = load_eyes(session).cpu()
    state = eyes.state_for(size)
    learnt = session.weights("look")
    for part in ("text", "projector"):
        state |= {f"{part}.{name}": tensor.float() for name, tensor in learnt[part].items()}
    write_directory(session, config, state, out)


def write_directory(session: Session, config: Any, state: dict[str, torch.Tensor], out: Path, **how: Any) -> None:
    """``state`` as a model directory with the demo's tokenizer and template; ``how``: of ``write_model``."""
    tokenizer = session.folder / "tokenizer.json"
    if not tokenizer.exists():
        tokenizer.write_text(tokenizer_json(), encoding="utf-8")
    image = ImageProcessor(config.vision.image_size).to_dict()
    write_model(out, config, state, tokenizer, image, {"max_new_tokens": 128}, TEMPLATE, overwrite=True, **how)


class SmallExam:
    """Held-out questions of the kinds of ``shown`` about pictures of their own (``size`` pixels), whose patches are
    seen once, by ``eyes``."""

    def __init__(
        self, recipe: DemoRecipe, shown: str, eyes: Eyes, text: PhiBackbone, projector: nn.Module, size: int
    ) -> None:
        kinds = tuple(kind for kind, _ in WORLD[shown].kinds)
        # A small input cannot show a word: no picture of the early stages has one, in training or here.
        asked = exam_conversations(recipe.exam, kinds, texts=0.3 if shown in ("multitask", "aimed") else 0.0)
        self._text, self._projector = text, projector
        self._asked = [replace(one, scene=None, picture=i) for i, (_, one) in enumerate(asked)]
        self._qformer, self._patches = eyes.qformer, see_patches(eyes, recipe, [scene for scene, _ in asked], size)
        self._writer = RowWriter(Tokenizer.from_string(tokenizer_json()), recipe.queries)

    def take(self) -> dict[str, float]:
        """Share of right answers by kind, and their mean."""
        device = self._text.embed.weight.device
        with torch.no_grad(), autocast(device):
            rows = [self._qformer(some.to(device)).float().cpu() for some in self._patches.split(_SEEN_AT_ONCE)]
            kinds = quick_marks(self._writer, self._text, self._projector, torch.cat(rows), self._asked)
        return {"mean": round(sum(kinds.values()) / len(kinds), 4), **kinds}


class ExamListener:
    """Told of every step by the trainer: moves the bar and gives the exam six times a stage."""

    def __init__(self, session: Session, phase: str, exam: SmallExam, bar: Bar) -> None:
        self._log, self._exam, self._bar = session.path(phase, "exams.jsonl"), exam, bar
        self.last: dict[str, float] = {}
        self.seconds = _seconds_so_far(self._log)  # of steps, to the last exam where a stage was stopped

    def __call__(self, done: int, total: int, figures: Figures, seconds: float) -> None:
        self._bar.step(done, {"loss": figures.loss}, seconds)
        self.seconds += seconds
        if done % LOG_EVERY == 0:
            line = {"step": done, "loss": round(figures.loss, 4), "lr": figures.lr, "seconds": round(seconds, 3)}
            self._bar.line(line)
        if done % max(1, total // _EXAMS) == 0 or done == total:
            self.last = self._exam.take()
            append_line(self._log, {"step": done, "seconds": round(self.seconds, 1), "exam": self.last})
            self._bar.line({"step": done, "exam": self.last})


def _seconds_so_far(log: Path) -> float:
    if not log.is_file():
        return 0.0
    lines = [json.loads(text) for text in log.read_text(encoding="utf-8").splitlines() if text.endswith("}")]
    return max((float(line["seconds"]) for line in lines), default=0.0)


@torch.no_grad()
def see_patches(eyes: Eyes, recipe: DemoRecipe, scenes: Sequence[Any], size: int) -> torch.Tensor:
    """f32 [scenes, I, E] of ``scenes`` drawn for an exam."""
    device = eyes.vision.pos_embed.device
    out = []
    for start in range(0, len(scenes), _SEEN_AT_ONCE):
        pixels = pixels_of(recipe, scenes[start : start + _SEEN_AT_ONCE], size, _EXAM_PATH, start).to(device)
        out.append(eyes.patches(pixels).float().cpu())
    return torch.cat(out)


def run_stage(session: Session, phase: str) -> None:
    """Run one stage to its end; its adapter is ``PHASE/adapter``."""
    recipe, folder = session.recipe, session.path(phase)
    large = phase == "s4"
    base = session.folder / ("base128" if large else "base64")
    if phase in ("s1", "s4") and not (folder / STATE_FILE).exists():  # the same files each time
        write_base(session, recipe.large_size if large else recipe.small_size, base)
    config = stage_config(recipe, phase)
    number = STAGES.index(phase)
    before = session.path(STAGES[number - 1], ADAPTER) if number else None
    batches = batches_of(session, phase)
    start = open_start(base, config, adapter=before, device=str(session.device))
    bar = Bar(session, phase, 0, config.steps)
    try:
        size = recipe.large_size if large else recipe.small_size
        exam = SmallExam(recipe, SHOWN[phase], load_eyes(session), start.model.text, start.model.projector, size)
        told = ExamListener(session, phase, exam, bar)
        with ahead(batches.made, config.steps) as made:
            finished = train_stage(
                start,
                config,
                replace(batches, made=made),
                folder,
                resume=True,
                listeners=[told],
                stop=session.late,
                allow_other_code=session.allow_other_code,
            )
        if not finished:
            raise Paused
    finally:
        bar.close()
    learnt = hashlib.sha256((folder / ADAPTER / "adapter_model.safetensors").read_bytes()).hexdigest()
    session.hand_on(phase, {"base": start.identity, "adapter": learnt})
    record = {"steps": config.steps, "seconds": round(told.seconds, 1), "exam": told.last or exam.take()}
    session.finish(phase, {**record, "recipe": recipe.digest_of(phase)})


def stage_conversations(cache: Cache, asked: Asked) -> tuple[list[Conversation], torch.Tensor]:
    """A step's questions as conversations of one question, and the rows [P, NQ, Q] of its pictures."""
    places: dict[int, int] = {}
    looks: list[torch.Tensor] = []
    out = []
    for at, question, keep in asked:
        if at not in places:
            places[at] = len(looks)
            looks.append(cache.rows(at))
        out.append(Conversation((question,), (keep,), None, places[at]))
    return out, torch.stack(looks)
