"""One phase after another, step by step. Every step is a function of (recipe, weights, step number) alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.randomness import generator
from ..data.scenes import EASY, FULL
from ..data.vocabulary import tokenizer_json
from ..processing.tokenizer import Tokenizer
from ..reference.loss import IGNORE
from . import losses
from .batches import Labels, Pictures, RowEncoder, Rows, ask_about, build_rows, draw_pictures, label_pictures
from .recipe import PHASES, Recipe
from .state import Run

LOG_EVERY = 25


@dataclass(frozen=True)
class Batch:
    """One step's data: ``labels`` in phase "see", ``rows`` in the others."""

    pictures: Pictures
    labels: Labels | None
    rows: list[Rows]


class BatchMaker:
    """Draws the batch of any step."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.encoder = RowEncoder(Tokenizer.from_string(tokenizer_json()))
        vision = recipe.model_config().vision
        assert vision is not None
        self.size, self.grid = vision.image_size, vision.grid

    def make(self, phase: str, step: int) -> Batch:
        settings = self.recipe.phase(phase)
        rng = generator(self.recipe.seed, PHASES.index(phase), step)
        easy = phase == "see" and step < self.recipe.easy_fraction * settings.steps
        pictures = draw_pictures(rng, settings.pictures, EASY if easy else FULL, self.size)
        if phase == "see":
            return Batch(pictures, label_pictures(pictures.scenes, self.grid), [])
        return Batch(pictures, None, build_rows(self.encoder, ask_about(rng, pictures.scenes, settings.questions)))


def run_step(run: Run, batch: Batch, soft: Tensor) -> dict[str, float]:
    """Forward, backward, update. Returns the figures of the batch."""
    with torch.autocast("cpu", torch.bfloat16):
        figures = _see(run, batch) if run.phase == "see" else _answer(run, batch, soft)
    run.optimiser.step(run.settings.rate(run.step))
    run.step += 1
    return figures


def _see(run: Run, batch: Batch) -> dict[str, float]:
    assert batch.labels is not None
    loss = losses.see(run.model, run.heads, batch.pictures.pixels, batch.labels)
    loss.total.backward()
    figures = {"shape": loss.shape, "colour": loss.colour, "located": loss.located, "counted": loss.counted}
    return {"loss": loss.total.item(), **figures}


def _answer(run: Run, batch: Batch, soft: Tensor) -> dict[str, float]:
    """Rows share their pictures' rows; each bucket's graph is freed before the next is built."""
    join = run.phase == "join"
    with torch.set_grad_enabled(join):
        seen = run.model.qformer(run.model.ln_vision(run.model.vision(batch.pictures.pixels)))
    leaf = seen.detach().float().requires_grad_(join)
    weights = sum(float(rows.weight[rows.labels != IGNORE].sum()) for rows in batch.rows)
    total = 0.0
    for rows in batch.rows:
        loss = losses.read(run.model, run.model.projector(leaf), rows, soft) / weights
        loss.backward()
        total += loss.item()
    if leaf.grad is not None:
        seen.backward(leaf.grad.to(seen.dtype))
    return {"loss": total}


Report = Callable[[Run, dict[str, float]], None]


def train(run: Run, report: Report, save: Callable[[Run], None], save_every: int = 400) -> None:
    """Train ``run`` from where it is to the end of its recipe.

    ``report`` is called after every step; ``save`` every ``save_every`` steps, at the end of each phase, and on the way
    out of any exception (Ctrl-C included), always between two steps.
    """
    maker = BatchMaker(run.recipe)
    soft = losses.soft_coordinates(run.model.config.text.vocab_size, maker.encoder.numbers)
    try:
        for name in PHASES[PHASES.index(run.phase) :]:
            if name != run.phase:
                run.enter(name)
                if name == "read":
                    losses.start_numbers(run.model, maker.encoder.numbers)
            _train_phase(run, maker, soft, report, save, save_every)
    except BaseException:
        save(run)
        raise


def _train_phase(
    run: Run, maker: BatchMaker, soft: Tensor, report: Report, save: Callable[[Run], None], save_every: int
) -> None:
    sums: dict[str, float] = {}
    while run.step < run.settings.steps:
        began = time.monotonic()
        # Drawn in line: a drawing thread beside two busy torch threads on two cores made a step twice as slow.
        figures = run_step(run, maker.make(run.phase, run.step), soft)
        run.seconds += time.monotonic() - began
        for name, value in figures.items():
            sums[name] = sums.get(name, 0.0) + value
        if run.step % LOG_EVERY == 0 or run.step == run.settings.steps:
            count = (run.step - 1) % LOG_EVERY + 1
            averages = {name: round(value / count, 4) for name, value in sums.items()}
            run.log.append({"phase": run.phase, "step": run.step, "seconds": round(run.seconds, 1), **averages})
            sums = {}
        report(run, figures)
        if run.step % save_every == 0 or run.step == run.settings.steps:
            save(run)
