"""One phase from wherever it is to its end: steps, small exams, saves, a bar; stops by the clock or by Ctrl-C.

A phase's folder holds ``state.pt`` (atomic; everything the next step depends on), ``log.jsonl`` (a line every 25 steps
and one per exam) and, once it has ended, ``done.json``. What a phase hands on is its ``weights.pt``.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ...errors import CheckpointError, InvalidArgumentError, TrainingError
from ..saving import load_state_file, save_atomically
from ..stages.interrupt import stop_on_interrupt
from .ahead import ahead
from .recipe import DemoRecipe

STATE, WEIGHTS, LOG, DONE = "state.pt", "weights.pt", "log.jsonl", "done.json"
LOG_EVERY = 25
_EXAMS = 8  # a phase
_SAVE_SECONDS = 120.0
_SMOOTHED = 0.95


class Paused(Exception):
    """The clock said stop; everything is saved and the same command continues."""


class Learner(Protocol):
    """What a phase does in a step. ``step`` depends on the learner's state and the number of the step alone.

    ``made``: what it learns from in a step, by the step's number; can be pickled, so that ``run_phase`` may put in its
    place what makes the same ahead.
    """

    made: Callable[[int], Any]

    def step(self, step: int) -> dict[str, float]: ...

    def exam(self) -> dict[str, float]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass
class Session:
    """One run of the command: the run's folder, its recipe, where it computes, when it must stop."""

    folder: Path
    recipe: DemoRecipe
    device: torch.device
    console: Console
    deadline: float | None = None  # on time.monotonic()
    allow_other_code: bool = False  # stages refuse to go on with other code, since it may not be to the bit

    def path(self, phase: str, name: str = "") -> Path:
        return self.folder / phase / name

    def note(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)

    def late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def done(self, phase: str) -> dict[str, Any] | None:
        """The record of an ended phase."""
        path = self.path(phase, DONE)
        if not path.is_file():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path} is not the record of a phase: {error}") from error
        if not isinstance(record, dict):
            raise CheckpointError(f"{path} holds {type(record).__name__}, expected a json object")
        return record

    def finish(self, phase: str, record: dict[str, Any]) -> None:
        """Leave ``done.json``: from here on the phase is over."""
        write_json(self.path(phase, DONE), record)

    def weights(self, phase: str) -> dict[str, Any]:
        """What ``phase`` handed on. Raises InvalidArgumentError if it has not ended."""
        if self.done(phase) is None:
            raise InvalidArgumentError(f"phase {phase!r} has not ended in {self.folder}, expected it to run before")
        return load_state_file(self.path(phase, WEIGHTS))

    def hand_on(self, phase: str, data: dict[str, Any]) -> None:
        save_atomically(data, self.path(phase, WEIGHTS))

    def digest(self, phase: str, *before: str) -> str:
        """Names the settings that ``phase`` depends on and what the phases ``before`` it handed on: an earlier phase
        done anew makes another run of the later ones."""
        whole = hashlib.sha256(self.recipe.digest_of(phase).encode())
        for earlier in before:
            whole.update(self.handed_on(earlier))
        return whole.hexdigest()

    def handed_on(self, phase: str) -> bytes:
        """Names the weights that ``phase`` has left: their SHA-256."""
        return hashlib.sha256(self.path(phase, WEIGHTS).read_bytes()).digest()


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` by way of a temporary beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def append_line(path: Path, line: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def marks(session: Session, phase: str, before: tuple[str, ...]) -> dict[str, Any]:
    """What must be equal for a phase to go on to the bit."""
    return {
        "phase": phase,
        "start": session.digest(phase, *before),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "device": session.device.type,
    }


def check_marks(path: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises InvalidArgumentError naming what differs."""
    different = [
        f"{name} was {saved.get(name)!r}, is {value!r}" for name, value in now.items() if saved.get(name) != value
    ]
    if different:
        raise InvalidArgumentError(f"{path} belongs to another run: {'; '.join(different)}; --fresh starts it anew")


class Bar:
    """Progress on a terminal; elsewhere one json line every 25 steps."""

    def __init__(self, session: Session, phase: str, done: int, total: int) -> None:
        self._session, self._phase, self._smooth = session, phase, -1.0
        self._progress: Progress | None = None
        if session.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}", markup=False),
                TimeRemainingColumn(),
            )
            self._progress = Progress(*columns, console=session.console)
            self._task = self._progress.add_task(phase, total=total, completed=done, figures="")
            self._progress.start()

    def step(self, done: int, figures: dict[str, float], seconds: float) -> None:
        loss = figures.get("loss", 0.0)
        self._smooth = loss if self._smooth < 0 else _SMOOTHED * self._smooth + (1 - _SMOOTHED) * loss
        if self._progress is not None:
            text = f"loss {self._smooth:.3f}  {1 / max(seconds, 1e-9):.2f} steps/s"
            self._progress.update(self._task, completed=done, figures=text)

    def line(self, line: dict[str, Any]) -> None:
        if self._progress is None:
            self._session.note(json.dumps({"phase": self._phase, **line}))

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()


def run_phase(
    session: Session,
    phase: str,
    learner: Learner,
    steps: int,
    before: tuple[str, ...],
    weights: Callable[[], Any],
    spent: float = 0.0,
) -> None:
    """Run ``phase`` of ``steps`` steps to its end: ``weights()`` is what it hands on. ``spent``: seconds before the
    first step, which count as the phase's.

    Raises Paused at the deadline and KeyboardInterrupt after Ctrl-C, with the state saved between two steps;
    TrainingError when the loss is not finite (the last saved state stands).
    """
    path, now = session.path(phase, STATE), marks(session, phase, before)
    step, seconds = 0, spent
    if path.exists():
        data = load_state_file(path)
        check_marks(path, data["marks"], now)
        learner.load_state_dict(data["learner"])
        step, seconds = int(data["step"]), float(data["seconds"])
        session.note(f"{phase}: continue from step {step} of {steps}")
    _drop_later(session.path(phase, LOG), step)

    def save() -> None:
        save_atomically({"marks": now, "step": step, "seconds": seconds, "learner": learner.state_dict()}, path)

    sums: dict[str, float] = {}
    counted, saved_at, exam_every = 0, time.monotonic(), max(1, steps // _EXAMS)
    last: dict[str, float] = {}
    bar = Bar(session, phase, step, steps)
    try:
        with stop_on_interrupt() as asked, ahead(learner.made, steps) as learner.made:
            while step < steps:
                began = time.monotonic()
                figures = learner.step(step)
                if not figures["loss"] < float("inf"):
                    raise TrainingError(f"{phase}, step {step}: the loss is {figures['loss']}")
                took = time.monotonic() - began
                step, seconds, counted = step + 1, seconds + took, counted + 1
                for name, value in figures.items():
                    sums[name] = sums.get(name, 0.0) + value
                bar.step(step, figures, took)
                if step % LOG_EVERY == 0 or step == steps:
                    line = {"step": step, "seconds": round(seconds, 2)}
                    line |= {name: round(value / counted, 4) for name, value in sums.items()}
                    append_line(session.path(phase, LOG), line)
                    bar.line(line)
                    sums, counted = {}, 0
                if step % exam_every == 0 or step == steps:
                    last = learner.exam()
                    append_line(session.path(phase, LOG), {"step": step, "exam": last})
                    bar.line({"step": step, "exam": last})
                stopping = asked.asked or (session.late() and step < steps)
                if stopping or step == steps or time.monotonic() - saved_at > _SAVE_SECONDS:
                    save()
                    saved_at = time.monotonic()
                if asked.asked:
                    raise KeyboardInterrupt
                if stopping:
                    raise Paused
    finally:
        bar.close()
    session.hand_on(phase, weights())
    session.finish(
        phase, {"steps": steps, "seconds": round(seconds, 1), "exam": last, "recipe": session.recipe.digest_of(phase)}
    )
    session.note(f"{phase}: {steps} steps in {seconds:.0f} s")


def _drop_later(path: Path, step: int) -> None:
    """Leave out the log's lines of steps that will be done again."""
    if not path.is_file():
        return
    kept = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # cut short by a crash
            continue
        if line["step"] <= step:
            kept.append(text + "\n")
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)
