"""A run from wherever it is to its end: steps, saves, the log; Ctrl-C, crashes and full disks lose at most the steps
since the last save.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from ...errors import InvalidArgumentError
from .config import StageConfig
from .examples import Batches
from .features import FrozenVision
from .interrupt import StopRequest, stop_on_interrupt
from .report import LOG_FILE, JsonLines, Listener, TensorBoard, plot_loss
from .rows import RowMaker
from .start import Start, write_trained
from .state import STATE_FILE, Progress, fingerprint, load_state, save_state
from .step import Stepper
from .trainable import freeze, make_optimizer

ADAPTER = "adapter"


class Trainer:
    """One run in directory ``out``: ``state.pt``, ``log.jsonl`` and, at the end, ``adapter/`` and ``loss.png``."""

    def __init__(
        self, start: Start, config: StageConfig, batches: Batches, out: Path, *, features: Path | None = None
    ) -> None:
        """features: folder in which rows of the frozen vision side are kept between runs."""
        self.start, self.config, self.batches, self.out = start, config, batches, out
        self.trained = freeze(start.model, config)
        self.optimizer = make_optimizer(self.trained, config)
        self.progress = Progress()
        vision = FrozenVision(
            start.model,
            start.processor,
            before_qformer=config.qformer,
            identity=start.vision_identity,
            folder=features,
        )
        rows = RowMaker(config, start.tokenizer, start.template, start.model.text)
        self.stepper = Stepper(config, start.model, rows, vision, self.trained, self.optimizer)
        self._marks = fingerprint(config, start.identity, batches.digest)

    @property
    def state_file(self) -> Path:
        return self.out / STATE_FILE

    def resume(self, *, allow_other_code: bool = False) -> bool:
        """Continue from the saved state; False if there is none yet. Raises InvalidArgumentError naming what differs
        if the directory belongs to another run."""
        if not self.state_file.exists():
            return False
        self.progress = load_state(
            self.state_file, self._marks, self.trained, self.optimizer, allow_other_code=allow_other_code
        )
        return True

    def save(self) -> None:
        """Save the state as it is now, atomically."""
        save_state(self.state_file, self._marks, self.progress, self.trained, self.optimizer)

    def run(
        self,
        listeners: Sequence[Listener] = (),
        *,
        tensorboard: bool = False,
        stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Train to the end; True then, with the adapter written. ``stop`` is asked between steps; where it says yes the
        state is saved and the answer is False.

        Ctrl-C saves and raises KeyboardInterrupt; a second one does not wait. Raises TrainingError (the state of the
        last save stands), CheckpointError (a full disk).
        """
        self.out.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            log = JsonLines(self.out / LOG_FILE, self.progress.step)
            stack.callback(log.close)
            told: list[Listener] = [log, *listeners]
            if tensorboard:
                board = TensorBoard(self.out / "tensorboard", self.progress.step)
                stack.callback(board.close)
                told.append(board)
            asked = stack.enter_context(stop_on_interrupt())
            finished = self._steps(told, asked, stop)
        if finished:
            write_trained(self.start, self.config, self.out / ADAPTER, overwrite=True)
        name = f"stage {self.config.stage}" if self.config.stage else "fine-tuning"
        plot_loss(self.out, f"{name}: {len(self.trained)} trained tensors, {self.progress.step} steps")
        return finished

    def _steps(self, told: Sequence[Listener], asked: StopRequest, stop: Callable[[], bool]) -> bool:
        saved = self.progress.step
        while self.progress.step < self.config.steps:
            began = time.monotonic()
            figures = self.stepper.run(self.progress.step, self.batches.batch(self.progress.step))
            seconds = time.monotonic() - began
            self.progress.step += 1
            self.progress.seconds += seconds
            for listener in told:
                listener(self.progress.step, self.config.steps, figures, seconds)
            if asked.asked:
                self.save()
                raise KeyboardInterrupt
            if self.progress.step % self.config.save_every == 0 or self.progress.step == self.config.steps:
                self.save()
                saved = self.progress.step
            if self.progress.step < self.config.steps and stop():
                if saved != self.progress.step:
                    self.save()
                return False
        return True


def train_stage(
    start: Start,
    config: StageConfig,
    batches: Batches,
    out: Path,
    *,
    resume: bool = False,
    allow_other_code: bool = False,
    features: Path | None = None,
    listeners: Sequence[Listener] = (),
    tensorboard: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Run ``config`` on ``start`` with ``batches`` in directory ``out``; True when the run has reached its end.

    Without ``resume`` a directory that holds a run is refused. The trained weights are in ``start.model`` and, as an
    adapter, in ``out/adapter``. The same run gives the same weights to the bit on the same CPU and thread count,
    however often it was stopped. See ``Trainer.run`` for ``stop``, Ctrl-C and errors.
    """
    trainer = Trainer(start, config, batches, out, features=features)
    if trainer.state_file.exists() and not resume:
        raise InvalidArgumentError(f"--out {out} holds a run already; --resume continues it")
    if resume:
        trainer.resume(allow_other_code=allow_other_code)
    try:
        return trainer.run(listeners, tensorboard=tensorboard, stop=stop)
    finally:
        start.model.eval()
        for parameter in trainer.trained.values():
            parameter.grad = None
