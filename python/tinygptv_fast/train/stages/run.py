"""A run from wherever it is to its end: steps, saves, the log; Ctrl-C, crashes and full disks lose at most the steps
since the last save. Of several processes the first alone writes and tells.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from ...checkpoint.adapter import write_adapter
from ...errors import InvalidArgumentError
from ..precision import precision_of
from ..saving import save_atomically
from .config import StageConfig
from .examples import Batches
from .features import FrozenVision
from .interrupt import StopRequest, stop_on_interrupt
from .report import LOG_FILE, JsonLines, Listener, TensorBoard, plot_loss
from .rows import RowMaker
from .sharding import Shared
from .start import Start, trained_adapter
from .state import STATE_FILE, Progress, differences, fingerprint, load_state, snapshot
from .step import Stepper
from .trainable import freeze, make_optimizer, trained_of
from .world import ALONE, World

ADAPTER = "adapter"


class Trainer:
    """One run in directory ``out``: ``state.pt``, ``log.jsonl`` and, at the end, ``adapter/`` and ``loss.png``."""

    def __init__(
        self,
        start: Start,
        config: StageConfig,
        batches: Batches,
        out: Path,
        *,
        features: Path | None = None,
        world: World = ALONE,
    ) -> None:
        """features: folder in which rows of the frozen vision side are kept between runs. world: the processes of the
        run, all of which make a Trainer of the same arguments. Raises InvalidArgumentError where they are not."""
        device = start.model.text.embed.weight.device
        config = dataclasses.replace(config, precision=precision_of(config, device))
        self.start, self.config, self.batches, self.out, self.world = start, config, batches, out, world
        self.progress = Progress()
        self._marks = fingerprint(config, start.identity, batches.digest)
        self._check_processes()
        freeze(start.model, config)
        shared = Shared(world, start.model, qformer=config.qformer)
        self.trained = trained_of(start.model)
        self.optimizer = make_optimizer(self.trained, config)
        vision = FrozenVision(
            start.model,
            start.processor,
            before_qformer=config.qformer,
            identity=start.vision_identity,
            folder=features,
        )
        rows = RowMaker(config, start.tokenizer, start.template, start.model.text)
        self.stepper = Stepper(config, start.model, rows, vision, self.trained, self.optimizer, shared)

    def _check_processes(self) -> None:
        """Everybody works on the same thing, and has something to do in each part of a step."""
        first, *others = self.world.gather(self._marks)
        for rank, marks in enumerate(others, start=1):
            if different := differences(first, marks, allow_other_code=False):
                what = "; ".join(different)
                raise self.world.same(InvalidArgumentError(f"process {rank} works on something else: {what}"))
        needed = self.config.accumulation * self.world.size
        if self.world.size > 1 and self.config.batch_size < needed:
            text = (
                f"batch_size is {self.config.batch_size} in accumulation={self.config.accumulation} parts, expected at "
                f"least {needed}: each of {self.world.size} processes takes an example of every part"
            )
            raise self.world.same(InvalidArgumentError(text))

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
        """Save the state as it is now, atomically and once; every process takes part."""
        data = snapshot(self._marks, self.progress, self.trained, self.optimizer)
        with self.world.agreeing():
            if self.world.first:
                save_atomically(data, self.state_file)

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
        with ExitStack() as stack:
            stack.enter_context(self.world.guard())
            told: list[Listener] = []
            with self.world.agreeing():
                if self.world.first:
                    told = [*self._open_logs(stack, tensorboard), *listeners]
            asked = stack.enter_context(stop_on_interrupt(patient=self.world.size > 1))
            finished = self._steps(told, asked, stop)
            self._close(finished)
        return finished

    def _open_logs(self, stack: ExitStack, tensorboard: bool) -> list[Listener]:
        self.out.mkdir(parents=True, exist_ok=True)
        log = JsonLines(self.out / LOG_FILE, self.progress.step)
        stack.callback(log.close)
        if not tensorboard:
            return [log]
        board = TensorBoard(self.out / "tensorboard", self.progress.step)
        stack.callback(board.close)
        return [log, board]

    def _close(self, finished: bool) -> None:
        """Leave what the run has come to: the adapter, if it has ended, and the picture of its loss."""
        adapter = trained_adapter(self.start, self.config) if finished else None
        with self.world.agreeing():
            if self.world.first and adapter is not None:
                write_adapter(self.out / ADAPTER, adapter, base=self.start.base, overwrite=True)
            if self.world.first:
                name = f"stage {self.config.stage}" if self.config.stage else "fine-tuning"
                plot_loss(self.out, f"{name}: {len(self.trained)} trained tensors, {self.progress.step} steps")

    def _steps(self, told: Sequence[Listener], asked: StopRequest, stop: Callable[[], bool]) -> bool:
        saved = self.progress.step
        while self.progress.step < self.config.steps:
            began = time.monotonic()
            with self.world.agreeing():
                examples = self.batches.batch(self.progress.step)
            figures = self.stepper.run(self.progress.step, examples)
            seconds = time.monotonic() - began
            self.progress.step += 1
            self.progress.seconds += seconds
            for listener in told:
                listener(self.progress.step, self.config.steps, figures, seconds)
            more = self.progress.step < self.config.steps
            interrupted, late = self.world.any(asked.asked, more and stop())
            if interrupted:
                self.save()
                raise KeyboardInterrupt
            if self.progress.step % self.config.save_every == 0 or not more:
                self.save()
                saved = self.progress.step
            if late:
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
    world: World = ALONE,
) -> bool:
    """Run ``config`` on ``start`` with ``batches`` in directory ``out``; True when the run has reached its end.

    Without ``resume`` a directory that holds a run is refused. The trained weights are in ``start.model`` and, as an
    adapter, in ``out/adapter``. The same run gives the same weights to the bit on the same CPU and thread count,
    however often it was stopped; with another number of processes (``world``, see ``open_world``) it is the same up to
    rounding. See ``Trainer.run`` for ``stop``, Ctrl-C and errors.
    """
    trainer = Trainer(start, config, batches, out, features=features, world=world)
    with world.agreeing():
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
