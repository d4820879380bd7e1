"""One variant through the stages: each begins with what the one before has learnt, and leaves a record of itself."""

from __future__ import annotations

import dataclasses
import hashlib
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...data.world_vocabulary import TEMPLATE, tokenizer_json
from ...errors import TrainingError
from ...processing.templates import get_template
from ...processing.tokenizer import Tokenizer
from ...reference.model import TinyGPTVReference
from ..demo.loop import LOG_EVERY, Bar, Paused, Session
from ..demo.recipe import STAGES
from ..demo.stages import stage_config
from ..stages.config import StageConfig
from ..stages.examples import Example
from ..stages.report import LOG_FILE, read_log
from ..stages.run import Trainer
from ..stages.start import Start
from ..stages.step import Figures
from .gradients import FILE, GradientLog
from .looking import ROWS, Asking, Eyes
from .protocol import BASE, VARIANTS, AblationRecipe, Variant

EARLIER = "an earlier stage stopped"  # a stage that was not run
_SHARE = 0.1  # of a stage's steps, over which its first and last figures are means
_AT_ONCE = 24  # held-out examples in one pass


def config_of(recipe: AblationRecipe, variant: Variant, phase: str) -> StageConfig:
    """The stage's config for ``variant``: the demo's, without the clipping that the paper does not have either."""
    changes: dict[str, Any] = {
        "clip_norm": None,
        "accumulation": 2,
        "precision": recipe.precision,
        "projector_hidden": recipe.projector_hidden,
        "frozen": list(variant.frozen),
    }
    if not variant.lora:
        changes["lora_rank"] = 0
    return stage_config(recipe, phase).replace(changes)


def run_stage(session: Session, recipe: AblationRecipe, eyes: Eyes, name: str, phase: str) -> None:
    """Run ``phase`` of variant ``name`` to its end, or to where it breaks down, which is a result and not an error.

    Raises Paused and KeyboardInterrupt with the state saved.
    """
    place, variant = f"{name}/{phase}", VARIANTS[name]
    before = session.done(f"{name}/{STAGES[STAGES.index(phase) - 1]}") if phase != STAGES[0] else None
    if before is not None and before["stopped"]:
        session.finish(place, {"steps": 0, "stopped": EARLIER, "seconds": 0.0})
        return
    config = config_of(recipe, variant, phase)
    rows = session.weights(ROWS)
    asking = Asking(recipe, phase, rows, rows["eyes"])
    trainer = Trainer(_start(session, recipe, eyes, name, phase, config), config, asking, session.path(place))
    trainer.resume()
    stopped = _train(session, trainer, place)
    record = {"steps": trainer.progress.step, "stopped": stopped, "seconds": round(trainer.progress.seconds, 1)}
    record |= summary(session.path(place))
    record["held_out"] = None if stopped else held_out_loss(trainer, asking.held_out())
    learnt = {} if phase == STAGES[0] else session.weights(f"{name}/{STAGES[STAGES.index(phase) - 1]}")
    session.hand_on(place, {**learnt, **{n: p.detach().clone() for n, p in trainer.trained.items()}})
    session.finish(place, record)


def _train(session: Session, trainer: Trainer, place: str) -> str | None:
    """None at the end of the stage, or what it broke down with."""
    bar = Bar(session, place, trainer.progress.step, trainer.config.steps)
    text = trainer.start.model.text
    log = GradientLog(trainer.out / FILE, trainer.progress.step, text, trainer.trained, trainer.optimizer)

    def tell(done: int, total: int, figures: Figures, seconds: float) -> None:
        bar.step(done, {"loss": figures.loss}, seconds)
        if done % LOG_EVERY == 0:
            bar.line({"step": done, "loss": round(figures.loss, 4), "seconds": round(seconds, 3)})

    try:
        if not trainer.run([log, tell], stop=session.late):
            raise Paused
    except TrainingError as error:
        return str(error)
    finally:
        log.close()
        bar.close()
    return None


def _start(session: Session, recipe: AblationRecipe, eyes: Eyes, name: str, phase: str, config: StageConfig) -> Start:
    """The model as ``phase`` finds it: the stock language model, new norms at 1, projector and adapters by the seed,
    and over them what the stages before have learnt."""
    variant, digest = VARIANTS[name], hashlib.sha256(recipe.digest.encode())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = _model(recipe, variant, eyes, config)
    state: dict[str, Tensor] = {f"text.{n}": t for n, t in session.weights(BASE)["text"].items()}
    earlier = [f"{name}/{stage}" for stage in STAGES[: STAGES.index(phase)]]
    if earlier:
        state |= session.weights(earlier[-1])
    unexpected = model.load_state_dict(state, strict=False).unexpected_keys
    assert not unexpected, unexpected
    for place in (BASE, *earlier):
        digest.update(session.handed_on(place))
    tokenizer = Tokenizer.from_string(tokenizer_json())
    return Start(model, tokenizer, get_template(TEMPLATE), None, digest.hexdigest(), base=f"ablation {name}")


def _model(recipe: AblationRecipe, variant: Variant, eyes: Eyes, config: StageConfig) -> TinyGPTVReference:
    stock = recipe.model_config(recipe.small_size)
    whole = dataclasses.replace(
        stock, text=variant.text_config(stock.text), vision=eyes.config.vision, qformer=eyes.config.qformer
    )
    model = TinyGPTVReference(whole, lora=config.lora, projector_hidden=recipe.projector_hidden)
    eyes.put_into(model)
    return model


@torch.no_grad()
def held_out_loss(trainer: Trainer, examples: list[Example]) -> float:
    """Mean loss of ``examples``, as the stage weighs them, without dropout."""
    model, stepper = trainer.start.model, trainer.stepper
    model.eval()
    rows = stepper.rows.rows(examples, 0)
    total, loss = stepper.rows.total_weight(rows), 0.0
    for first in range(0, len(rows), _AT_ONCE):
        loss += stepper.loss(rows[first : first + _AT_ONCE], total).item()
    return round(loss, 4)


def summary(folder: Path) -> dict[str, Any]:
    """First and last means of the loss and of the gradients by layer, from the stage's logs."""
    losses = [line["loss"] for line in read_log(folder / LOG_FILE)]
    lines = read_log(folder / FILE)
    many = max(1, round(_SHARE * len(losses)))
    if not losses or not lines:
        return {"first_loss": None, "last_loss": None, "first_states": [], "last_states": [], "last_weights": []}
    return {
        "first_loss": round(statistics.fmean(losses[:many]), 4),
        "last_loss": round(statistics.fmean(losses[-many:]), 4),
        "first_states": _means([line["states"] for line in lines[:many]]),
        "last_states": _means([line["states"] for line in lines[-many:]]),
        "last_weights": _means([line["weights"] for line in lines[-many:]]),
    }


def _means(rows: list[list[float]]) -> list[float]:
    return [float(f"{statistics.fmean(column):.4g}") for column in zip(*rows, strict=True)]


def run_all(session: Session, recipe: AblationRecipe, eyes: Eyes) -> None:
    """Every variant, stage by stage; what has ended is left as it is."""
    began = time.monotonic()
    for name in VARIANTS:
        for phase in STAGES:
            if session.done(f"{name}/{phase}") is None:
                run_stage(session, recipe, eyes, name, phase)
    session.note(f"all variants: {time.monotonic() - began:.0f} s")
