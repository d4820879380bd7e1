"""Begin with parts of a model directory: behind V3 with its vision side (``--eyes``), behind "text" with its language
model (``--words``).

V1a to V3 are half of the recipe's minutes, and a model that is there has them in it. What is taken counts as done, with
the source's hash in its record and the minutes that the source's own log gives for all that is in it. The heads are not
in a directory: V4 teaches them first. A run's folder has them, and then V4 and V5 are taken, too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...checkpoint.directory import ModelDirectory, open_directory
from ...config import ModelConfig
from ...conversion import load_state
from ...data.world_vocabulary import tokenizer_json
from ...errors import CheckpointError, InvalidArgumentError
from ...reference.projector import Projector
from ...reference.vision import interpolate_position_embedding
from .finish import write_unquantised
from .log import FILE_NAME, write_log
from .loop import LOG, Session, append_line
from .pictures import Eyes
from .recipe import KEPT, RECIPE_FILE, SEEING, STAGES, DemoRecipe, read_recipe
from .seeing import queries_of

TAKEN = SEEING[: SEEING.index("v4")]
SEEN = ("v4", KEPT, SEEING[-1])  # what a run's folder has besides
_TOLD = ("text", "look", *STAGES, "finish")  # what a language model has behind it
_PARTS = ("vision.", "ln_vision.", "qformer.")


def take_eyes(session: Session, source: Path) -> None:
    """Leave what V1a to V3 would hand on, from directory ``source``.

    A run that has taken them from the same weights goes on. Raises InvalidArgumentError where a phase has begun with
    others or the sizes differ from the recipe's, CheckpointError for a directory that cannot be read.
    """
    directory = open_directory(source)
    if _taken(session, TAKEN[-1], directory):
        return
    begun = [phase for phase in TAKEN if session.path(phase).exists()]
    if begun:
        raise InvalidArgumentError(f"--eyes {source}: {begun[0]} has begun in {session.folder}, expected a new run")
    check_sizes(session.recipe, directory.config, source)
    state = eyes_state(session.recipe, directory)
    eyes = Eyes(session.recipe, queries_of(state))
    eyes.load_state_dict(state)
    records, lines = _history(source)
    for phase in TAKEN:
        for line in lines.get(phase, []):
            append_line(session.path(phase, LOG), line)
        record = {"steps": 0, "seconds": 0.0, "exam": {}} | records.get(phase, {})
        record.pop("recipe", None)
        if phase == TAKEN[-1]:  # what the source's eyes learnt behind it is in them as well
            later = [records[name] for name in (*SEEING[len(TAKEN) :], KEPT) if name in records]
            record["seconds"] = round(record["seconds"] + sum(one.get("seconds", 0.0) for one in later), 1)
        session.hand_on(phase, {"eyes": eyes.state_dict()} if phase == TAKEN[-1] else {"taken": directory.content_hash})
        session.finish(phase, {**record, "taken": directory.content_hash})
    session.note(f"{TAKEN[0]} to {TAKEN[-1]}: taken from {source}")


def take_words(session: Session, source: Path) -> None:
    """Leave what "text" would hand on, from directory ``source``, and its projector for "look" to begin with.

    Raises as ``take_eyes`` does.
    """
    directory = open_directory(source)
    if _taken(session, "text", directory):
        return
    if session.path("text").exists():
        raise InvalidArgumentError(f"--words {source}: text has begun in {session.folder}, expected a new run")
    wanted = session.recipe.model_config(session.recipe.large_size).text
    if directory.config.text != wanted:
        raise InvalidArgumentError(f"--words {source}: its text is {directory.config.text}, expected {wanted}")
    if json.loads(directory.tokenizer_file.read_text(encoding="utf-8")) != json.loads(tokenizer_json()):
        raise InvalidArgumentError(f"--words {source}: its vocabulary is another one, expected that of the drawn world")
    state = {name: tensor.float() for name, tensor in load_state(directory).items()}
    text = {name.removeprefix("text."): tensor for name, tensor in state.items() if name.startswith("text.")}
    projector = factored(state["projector.weight"], state["projector.bias"], session.recipe.projector_hidden)
    records, lines = _history(source)
    for line in lines.get("text", []):
        append_line(session.path("text", LOG), line)
    record = {"steps": 0, "exam": {}} | records.get("text", {})
    record.pop("recipe", None)
    seconds = sum(records[name].get("seconds", 0.0) for name in _TOLD if name in records)
    session.hand_on("text", {"text": text, "projector": projector})
    session.finish("text", {**record, "seconds": round(seconds, 1), "taken": directory.content_hash})
    session.note(f"text: taken from {source}")


def take_run(session: Session, folder: Path) -> None:
    """Leave what V1a to V5 and "text" would hand on, from the run in ``folder`` as its S4 left it: eyes, heads, words.

    Raises as ``take_eyes`` does, InvalidArgumentError where that run has not come to the end of S4.
    """
    run = Session(folder, read_recipe(folder / RECIPE_FILE), session.device, session.console)
    run.weights(STAGES[-1])
    source = write_unquantised(run)
    write_log(run, source, {})
    take_eyes(session, source)
    directory = open_directory(source)
    if not _taken(session, SEEN[-1], directory):
        begun = [phase for phase in SEEN if session.path(phase).exists() and not _taken(session, phase, directory)]
        if begun:
            raise InvalidArgumentError(
                f"--further {folder}: {begun[0]} has begun in {session.folder}, expected a new run"
            )
        seen = {"eyes": session.weights(TAKEN[-1])["eyes"], "heads": _heads(run)}
        for phase in SEEN:
            session.hand_on(phase, {"taken": directory.content_hash} if phase == KEPT else seen)
            session.finish(phase, {"steps": 0, "seconds": 0.0, "exam": {}, "taken": directory.content_hash})
        session.note(f"v4, v5: heads taken from {folder}")
    take_words(session, source)


def _heads(run: Session) -> dict[str, Tensor]:
    """Those that stood last on the rows of ``run``: before it had "look" teach them, V5's."""
    looked = run.weights("look")
    heads: dict[str, Tensor] = (looked if "heads" in looked else run.weights(SEEING[-1]))["heads"]
    return heads


def _taken(session: Session, phase: str, directory: ModelDirectory) -> bool:
    """Whether ``phase`` was taken from these weights."""
    record = session.done(phase)
    return record is not None and record.get("taken") == directory.content_hash


def factored(weight: Tensor, bias: Tensor, hidden: int) -> dict[str, Tensor]:
    """The state of a ``Projector`` with ``hidden`` that folds to ``weight`` [C, Q] and ``bias`` [C]. What of its width
    the product does not need is random before and zero behind, so that it can still learn.

    Raises InvalidArgumentError where ``hidden`` is narrower than either side.
    """
    C, Q = weight.shape
    rank = min(C, Q)
    if hidden < rank:
        raise InvalidArgumentError(f"projector_hidden is {hidden}, expected at least {rank} to take a projector")
    U, S, V = torch.linalg.svd(weight, full_matrices=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        projector = Projector(Q, C, hidden)
    state = {name: tensor.detach() for name, tensor in projector.state_dict().items()}
    state["proj1.weight"][:rank] = S.sqrt()[:, None] * V
    state["proj2.weight"].zero_()
    state["proj2.weight"][:, :rank] = U * S.sqrt()
    return state | {"proj1.bias": torch.zeros(hidden), "proj2.bias": bias.clone()}


def check_sizes(recipe: DemoRecipe, config: ModelConfig, source: Path) -> None:
    """Raises InvalidArgumentError naming the first part that has another size than the recipe's; fewer queries than are
    shipped will do, since V5 adds what is missing."""
    theirs = config.qformer.queries if config.qformer is not None else recipe.queries
    wanted = recipe.model_config(recipe.large_size, min(theirs, recipe.queries))
    for part in ("vision", "qformer"):
        mine, there = getattr(wanted, part), getattr(config, part)
        if mine != there:
            raise InvalidArgumentError(f"--eyes {source}: its {part} is {there}, expected {mine}")


def eyes_state(recipe: DemoRecipe, directory: ModelDirectory) -> dict[str, Tensor]:
    """The state of ``Eyes``, f32, int8 matrices multiplied out."""
    state = {name: tensor.float() for name, tensor in load_state(directory).items() if name.startswith(_PARTS)}
    tokens = recipe.model_config(recipe.small_size).vision
    assert tokens is not None
    state["vision.pos_embed"] = small_positions(state["vision.pos_embed"], tokens.tokens)
    return state


def small_positions(large: Tensor, tokens: int) -> Tensor:
    """The position embedding [tokens, E] that ``interpolate_position_embedding`` made ``large`` [I, E] from.

    Interpolating is linear and loses nothing on the way up, so least squares gives the rows back.
    """
    unit = torch.cat([torch.zeros(1, tokens - 1), torch.eye(tokens - 1)])
    spread = interpolate_position_embedding(unit, large.shape[0])[1:].double()
    grid = torch.linalg.lstsq(spread, large[1:].double()).solution.float()
    return torch.cat([large[:1], grid])


def _history(source: Path) -> tuple[dict[str, dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """(records, lines of the log) by phase, from the source's training log; empty where it has none."""
    path = source / FILE_NAME
    if not path.is_file():
        return {}, {}
    try:
        log = json.loads(path.read_text(encoding="utf-8"))
        lines: dict[str, list[dict[str, Any]]] = {}
        for line in log["log"]:
            lines.setdefault(line["phase"], []).append({name: value for name, value in line.items() if name != "phase"})
        return dict(log["phases"]), lines
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not the log of a training run: {error}") from error
