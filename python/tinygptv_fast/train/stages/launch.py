"""From files to a finished run: what ``tinygptv train`` and ``tinygptv finetune`` do, for programs as well."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...checkpoint.adapter import AdaptedDirectory, read_adapter
from ...checkpoint.directory import open_directory
from ...config import QuantizationConfig
from ...conversion import merge_directory
from ...data.readers.config import SetConfig
from ...data.readers.mix import Mix
from ...data.readers.opening import open_mix
from ...data.readers.reading import Report
from ...errors import InvalidArgumentError
from ...generate.loading import locate
from .config import StageConfig
from .examples import Mixture
from .readers import DataFile, read_examples
from .report import Listener
from .run import ADAPTER, Trainer
from .start import open_start
from .state import STATE_FILE
from .world import ALONE, World

REPLAY = "replay"
SUMMARY = "data.json"


@dataclass(frozen=True)
class Launch:
    """What to run. model: 'demo' or a model directory. data: json files, whose stems are the names in
    ``config.ratios``; replay: a file whose examples make up ``config.replay_ratio`` of each batch, so that what the
    model knew is not forgotten. sets: data sets in published formats, instead of ``data``.
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
    sets: Sequence[SetConfig] = ()

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


def batches_of(launch: Launch, report: Report = lambda done, total, text: None) -> Mixture | Mix:
    """Where the examples of ``launch`` come from. report: is told how far the reading of ``launch.sets`` is.

    Raises InvalidArgumentError (``out`` holds a run that is not to be resumed), DataError naming file and record.
    """
    if (launch.out / STATE_FILE).exists() and not launch.resume:
        raise InvalidArgumentError(f"--out {launch.out} holds a run already; --resume continues it")
    if not launch.sets:
        return mixture(launch)
    if launch.data:
        raise InvalidArgumentError("--data is given and the config names data sets too, expected one of the two")
    config = launch.config
    return open_mix(launch.sets, config.batch_size, config.seed, ratios=config.ratios, tell=launch.note, report=report)


def _shares(config: StageConfig, names: list[str]) -> dict[str, float]:
    """Shares that add up to 1, by the config's ratios where it names a set."""
    weights = {name: float(config.ratios.get(name, 1.0)) for name in names}
    whole = sum(weights.values())
    return {name: weight / whole for name, weight in weights.items()}


def _digest(files: dict[str, DataFile], shares: dict[str, float]) -> str:
    lines = [f"{name} {file.digest} {shares[name]!r}" for name, file in files.items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def launch(
    what: Launch,
    listeners: Sequence[Listener] = (),
    stop: Callable[[], bool] = lambda: False,
    batches: Mixture | Mix | None = None,
) -> tuple[Trainer, bool]:
    """Run ``what``; the trainer and whether the run has reached its end (``stop`` can end it before). batches: what
    ``batches_of(what)`` has read; None reads it here.

    Raises InvalidArgumentError, DataError, CheckpointError, TrainingError, UnsupportedError; KeyboardInterrupt after
    Ctrl-C, with the state saved.
    """
    world = what.world
    with world.agreeing():
        if batches is None:
            batches = batches_of(what)
        _say_what_is_trained_on(what)
        start = open_start(what.model, what.config, adapter=what.adapter, device=world.device(what.device))
    trainer = Trainer(start, what.config, batches, what.out, features=what.features, world=world)
    with world.agreeing():
        _check_rows(trainer, batches)
        if what.resume and trainer.resume(allow_other_code=what.allow_other_code):
            what.note(f"continue from step {trainer.progress.step} of {what.config.steps}")
    count = sum(parameter.numel() for parameter in trainer.trained.values())
    shared = f", {world.size} processes ({world.kind})" if world.kind else ""
    what.note(f"training {count:,} numbers in {len(trainer.trained)} tensors, {what.config.steps} steps{shared}")
    try:
        return trainer, trainer.run(listeners, tensorboard=what.tensorboard, stop=stop)
    finally:
        if isinstance(batches, Mix) and world.first:
            _write_summary(batches, what)


def _check_rows(trainer: Trainer, batches: Mixture | Mix) -> None:
    """What cannot be a row is known before training; of a ``Mix``, which holds too many to go through, when it is
    drawn."""
    queries = trainer.start.model.config.qformer.queries if trainer.start.model.config.qformer is not None else 0
    if isinstance(batches, Mix):
        batches.accept = lambda example: trainer.stepper.rows.check([example], queries)
    else:
        for examples in batches.sets.values():
            trainer.stepper.rows.check(examples, queries)


def _write_summary(mix: Mix, what: Launch) -> None:
    """``data.json``: what each data set held and what was left out of it, by reason. A disk that has no room for it is
    noted, not raised: that must not stand in for what ended the run."""
    temporary = what.out / f".{SUMMARY}.tmp"
    text = json.dumps(mix.summary(), indent=1, ensure_ascii=False) + "\n"
    try:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, what.out / SUMMARY)
    except OSError as error:
        what.note(f"{what.out / SUMMARY} cannot be written: {error.strerror or error}")


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
