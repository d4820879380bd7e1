"""The last phase of training: the language model learns to answer from the int4 weights it will be shipped with.

It begins with levels that make up for each other's errors (``levels``) and goes on straight-through: each step rounds
the matrices exactly as the converter will, computes with the rounded ones, and gives the gradient to the unrounded
ones. The goal is the distribution of the unquantised model over every token of the answers: what is lost by rounding is
to be won back, nothing else is to change. (With the right answers as a second goal the distributions parted: after 600
steps they were further apart than plain rounding leaves them. Close to the goal gradients are small, and AdamW makes
steps of them as large as the rate, whatever they are: at five times this rate it first parted from it.)
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...checkpoint.adapter import open_adapted
from ...checkpoint.names import storage_kind
from ...config import ModelConfig
from ...conversion import load_state
from ...data.world_vocabulary import tokenizer_json
from ...processing.tokenizer import Tokenizer
from ...quantize.int4 import dequantize_int4, quantize_int4
from ...quantize.int8 import dequantize_int8, quantize_int8
from ...reference.loss import IGNORE
from ...reference.model import TinyGPTVReference
from ..precision import autocast
from ..stages.run import ADAPTER
from .levels import choose_levels, matrices_in, sample_of
from .loop import STATE, Bar, Session, run_phase
from .recipe import SHIPPED, SHOWN
from .rows import RowWriter, answer_logits, embed_rows
from .seeing import load_eyes
from .stages import CachedQuestions, SmallExam, batches_of, stage_conversations, write_directory

_BUCKETS = 3
_SAMPLED = 60  # steps' worth of questions that levels are chosen for, behind those that are learnt from


def as_shipped(name: str, weight: Tensor, config: ModelConfig) -> Tensor:
    """``weight`` as the converter stores it under ``config`` and the engine reads it, f32."""
    kind = storage_kind(name, config)
    plain = weight.detach().float().cpu().contiguous()
    if kind == "int4":
        quantization = config.quantization
        stored = dequantize_int4(quantize_int4(plain, quantization.group_size, quantization.symmetric, name=name))
    elif kind == "int8":
        stored = dequantize_int8(quantize_int8(plain, name=name))
    else:
        return weight.detach()
    return stored.to(weight.device)


def merged_state(session: Session) -> dict[str, Tensor]:
    """The whole model as S4 left it, LoRA folded in, f32 under canonical names."""
    directory = open_adapted(session.folder / "base128", session.path("s4", ADAPTER))
    return {name: tensor.float().clone() for name, tensor in load_state(directory).items()}


def write_unquantised(session: Session) -> Path:
    """The whole model as S4 left it: directory "float32" in the run's folder."""
    directory = session.folder / "float32"
    write_directory(session, session.recipe.model_config(session.recipe.large_size), merged_state(session), directory)
    return directory


class Finishing:
    """The learner of phase "finish": language model and projector learn, the vision side stays."""

    def __init__(self, session: Session, batches: CachedQuestions) -> None:
        recipe = self.recipe = session.recipe
        self.device, self.settings, self.cache = session.device, recipe.finish, batches.cache
        self.made: Callable[[int], Any] = batches.made
        config = recipe.model_config(recipe.large_size)
        self.shipped = dataclasses.replace(config, quantization=SHIPPED)
        self.model = TinyGPTVReference(config)
        self.model.load_state_dict(merged_state(session))
        self.model.to(self.device)
        self.teacher = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.trained = {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if name.startswith(("text.", "projector."))
        }
        self.optimiser = torch.optim.AdamW(
            self.trained.values(), lr=self.settings.adam_lr, betas=(0.9, 0.999), weight_decay=0.0
        )
        self.writer = RowWriter(Tokenizer.from_string(tokenizer_json()), recipe.queries)
        self._exam = SmallExam(
            recipe, SHOWN["finish"], load_eyes(session), self.model.text, self.model.projector, recipe.large_size
        )

    @torch.no_grad()
    def begin(self, session: Session) -> float:
        """Start from levels that make up for each other's errors; returns the seconds it took."""
        began, samples = time.monotonic(), []
        text = self.model.text
        for step in range(self.settings.steps, self.settings.steps + min(_SAMPLED, self.settings.steps)):
            conversations, visual = stage_conversations(self.cache, self.made(step))
            for rows in self.writer.write(conversations, _BUCKETS):
                there = rows.to(self.device)
                samples.append(sample_of(embed_rows(text, self.model.projector, visual.to(self.device), there), there))
        bar = Bar(session, "finish: levels", 0, matrices_in(text))
        try:
            choose_levels(text, samples, self.shipped, lambda done: bar.step(done, {}, time.monotonic() - began))
        finally:
            bar.close()
        took = time.monotonic() - began
        session.note(f"finish: int4 levels in {took:.0f} s")
        return took

    def _round(self) -> dict[str, Tensor]:
        """Put the rounded weights in place; returns the unrounded ones."""
        kept = {}
        with torch.no_grad():
            for name, parameter in self.trained.items():
                if storage_kind(name, self.shipped) in ("int4", "int8"):
                    kept[name] = parameter.detach().clone()
                    parameter.copy_(as_shipped(name, parameter, self.shipped))
        return kept

    def _restore(self, kept: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in kept.items():
                self.trained[name].copy_(value)

    def step(self, step: int) -> dict[str, float]:
        conversations, visual = stage_conversations(self.cache, self.made(step))
        visual = visual.to(self.device)
        buckets = self.writer.write(conversations, _BUCKETS)
        whole = sum(float(rows.weight.sum()) for rows in buckets)
        total = 0.0
        kept = self._round()
        for rows in buckets:
            there = rows.to(self.device)
            with autocast(self.device):
                with torch.no_grad():
                    wanted = answer_logits(self.teacher.text, self.teacher.projector, visual, there)
                logits = answer_logits(self.model.text, self.model.projector, visual, there)
                divergence = F.kl_div(logits.log_softmax(-1), wanted.log_softmax(-1), reduction="none", log_target=True)
                loss = divergence.sum(-1) @ there.weight[there.labels != IGNORE] / whole
            loss.backward()
            total += loss.item()
        self._restore(kept)
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.adam_lr * self.settings.rate(step)
        torch.nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return {"loss": total}

    def exam(self) -> dict[str, float]:
        """Of the rounded weights."""
        kept = self._round()
        try:
            return self._exam.take()
        finally:
            self._restore(kept)

    def state_dict(self) -> dict[str, Any]:
        return {**self.weights(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])

    def weights(self) -> dict[str, Any]:
        return {"model": self.model.state_dict()}


def finish(session: Session) -> None:
    """Run phase "finish"."""
    learner = Finishing(session, batches_of(session, "finish"))
    spent = 0.0 if session.path("finish", STATE).exists() else learner.begin(session)
    run_phase(session, "finish", learner, learner.settings.steps, ("s4",), learner.weights, spent)
