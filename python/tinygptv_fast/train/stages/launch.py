"""From files to a finished run: what ``tinygptv train`` and ``tinygptv finetune`` do, for programs as well."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...checkpoint.adapter import AdaptedDirectory, read_adapter
from ...checkpoint.directory import open_directory
from ...config import QuantizationConfig
from ...conversion import merge_directory
from ...errors import InvalidArgumentError
from ...generate.loading import locate
from .config import StageConfig
from .examples import Mixture
from .readers import DataFile, read_examples
from .report import Listener
from .run import ADAPTER, Trainer
from .start import open_start
from .world import ALONE, World

REPLAY = "replay"


@dataclass(frozen=True)
class Launch:
    """What to run. model: 'demo' or a model directory. data: json files, whose stems are the names in
    ``config.ratios``; replay: a file whose examples make up ``config.replay_ratio`` of each batch, so that what the
    model knew is not forgotten.
    """

    config: StageConfig
    model: str
    data: Sequence[Path]
    out: Path
    adapter: Path | None = None
    images: Path | None = None
    replay: Path | None = None
    features: Path | None = None
    resume: bool = False
    allow_other_code: bool = False
    tensorboard: bool = False
    device: str = "cpu"
    world: World = ALONE
    note: Callable[[str], None] = field(default=lambda text: None)

    @property
    def directory(self) -> Path:
        """The folder of ``model``; nothing is downloaded. Raises CheckpointError if there is none."""
        return locate(self.model, revision=None, token=None, cache_dir=None, local_files_only=True)


def mixture(launch: Launch) -> Mixture:
    """The data sets of ``launch`` in their ratios. Raises InvalidArgumentError naming file and record."""
    files = {path.stem: read_examples(path, launch.images) for path in launch.data}
    if len(files) != len(launch.data):
        raise InvalidArgumentError("two --data files have the same name, expected different ones: ratios go by name")
    shares = _shares(launch.config, list(files))
    if launch.replay is not None and launch.config.replay_ratio > 0:
        if REPLAY in files:
            raise InvalidArgumentError(f"--data has a file named {REPLAY!r}, which is the name of the replay data")
        shares = {name: share * (1 - launch.config.replay_ratio) for name, share in shares.items()}
        shares[REPLAY] = launch.config.replay_ratio
        files[REPLAY] = read_examples(launch.replay, None)
    for name, file in files.items():
        launch.note(f"{file.path}: {len(file.examples)} examples ({file.kind}), {shares[name]:.0%} of each batch")
    sets = {name: file.examples for name, file in files.items()}
    return Mixture(sets, launch.config.batch_size, launch.config.seed, _digest(files, shares), shares)


def _shares(config: StageConfig, names: list[str]) -> dict[str, float]:
    """Shares that add up to 1, by the config's ratios where it names a set."""
    weights = {name: float(config.ratios.get(name, 1.0)) for name in names}
    whole = sum(weights.values())
    return {name: weight / whole for name, weight in weights.items()}


def _digest(files: dict[str, DataFile], shares: dict[str, float]) -> str:
    lines = [f"{name} {file.digest} {shares[name]!r}" for name, file in files.items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def launch(
    what: Launch, listeners: Sequence[Listener] = (), stop: Callable[[], bool] = lambda: False
) -> tuple[Trainer, bool]:
    """Run ``what``; the trainer and whether the run has reached its end (``stop`` can end it before).

    Raises InvalidArgumentError, CheckpointError, TrainingError, UnsupportedError; KeyboardInterrupt after Ctrl-C, with
    the state saved.
    """
    state, world = what.out / "state.pt", what.world
    with world.agreeing():
        if state.exists() and not what.resume:
            raise InvalidArgumentError(f"--out {what.out} holds a run already; --resume continues it")
        batches = mixture(what)
        _say_what_is_trained_on(what)
        start = open_start(what.model, what.config, adapter=what.adapter, device=world.device(what.device))
    trainer = Trainer(start, what.config, batches, what.out, features=what.features, world=world)
    queries = start.model.config.qformer.queries if start.model.config.qformer is not None else 0
    with world.agreeing():
        for examples in batches.sets.values():
            trainer.stepper.rows.check(examples, queries)
        if what.resume and trainer.resume(allow_other_code=what.allow_other_code):
            what.note(f"continue from step {trainer.progress.step} of {what.config.steps}")
    count = sum(parameter.numel() for parameter in trainer.trained.values())
    shared = f", {world.size} processes ({world.kind})" if world.kind else ""
    what.note(f"training {count:,} numbers in {len(trainer.trained)} tensors, {what.config.steps} steps{shared}")
    return trainer, trainer.run(listeners, tensorboard=what.tensorboard, stop=stop)


def _say_what_is_trained_on(what: Launch) -> None:
    config = open_directory(what.directory).config
    if config.quantization.text != "none":
        what.note(
            f"{what.model} is {config.quantization.text}: training starts from its dequantised weights "
            "(a directory converted with --quantization none loses nothing)"
        )
    if config.vision is not None and what.config.image_size not in (None, config.vision.image_size):
        what.note(
            f"the stage is meant for pictures of {what.config.image_size} pixels, this model sees "
            f"{config.vision.image_size}"
        )


def merge(what: Launch, out: Path, *, quantization: str | None = None, overwrite: bool = False) -> dict[str, Any]:
    """Write the model of ``what`` with its finished run's adapter in it as the directory ``out``.

    quantization: "int4", "int8" or "none" for the language model; None keeps the base's form, or int4 with the vision
    side in int8 where the base is unquantised. Returns the receipt's totals.
    """
    directory = open_directory(what.directory)
    adapted = AdaptedDirectory(directory, read_adapter(what.out / ADAPTER, directory.config))
    stored = directory.config.quantization
    if quantization is None and stored.text == "none":
        stored = QuantizationConfig(text="int4", vision="int8")
    elif quantization is not None:
        stored = dataclasses.replace(stored, text=quantization)
    return merge_directory(adapted, out, quantization=stored, overwrite=overwrite).totals()
