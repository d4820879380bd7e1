"""``train``: a stage of the paper's recipe. ``finetune``: a finished model on data of one's own."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import InvalidArgumentError
from . import options
from .models import note, use_threads
from .options import check_exists, need_model
from .output import console, print_json, progress
from .run import EXIT_BAD_INPUT

if TYPE_CHECKING:
    from ..train.stages.config import StageConfig
    from ..train.stages.launch import Launch
    from ..train.stages.run import Trainer
    from ..train.stages.world import World

Out = Annotated[Path, typer.Option(metavar="DIR", help="Where the run lives: state, log, loss plot, adapter.")]
Data = Annotated[
    list[Path] | None, typer.Option(metavar="FILE", help="Examples (json); repeat it for several data sets.")
]
Config = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Json object with the settings to change (train: and data sets).")
]
Images = Annotated[Path | None, typer.Option(metavar="DIR", help="Where pictures are (default: beside the data).")]
Adapter = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Adapter of the stage before, trained on from there.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")]
OtherCode = Annotated[
    bool, typer.Option("--allow-other-code", help="Resume a run of other code, torch or threads: not to the bit.")
]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Write scalars to DIR/tensorboard as well.")]
Features = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Keep what the frozen vision side says of each picture here.")
]
Minutes = Annotated[
    float | None, typer.Option(min=0.01, help="Save and stop after this long; --resume continues (exit code 0).")
]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16"] | None,
    typer.Option(help="bfloat16: autocast; auto: that where the device has it (default: as the config says)."),
]
Device = Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to compute.")]
Parallel = Annotated[
    Literal["ddp", "fsdp"] | None,
    typer.Option(help="Under torchrun: ddp, the whole model in each process; fsdp, a part of it in each."),
]


def train(
    stage: Annotated[str, typer.Option(metavar="1|2|3|4", help="Which stage of the recipe.")],
    out: Out,
    model: options.Model = None,
    data: Data = None,
    config: Config = None,
    values: Annotated[
        Literal["paper", "original"], typer.Option(help="Where the paper and its code disagree: whose values.")
    ] = "paper",
    adapter: Adapter = None,
    images: Images = None,
    resume: Resume = False,
    allow_other_code: OtherCode = False,
    features: Features = None,
    precision: Precision = None,
    device: Device = "cpu",
    parallel: Parallel = None,
    minutes: Minutes = None,
    tensorboard: TensorBoard = False,
    show: Annotated[bool, typer.Option("--show", help="Print the stage's settings as json and stop.")] = False,
    threads: options.Threads = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train one stage of TinyGPT-V's recipe: warm-up, pre-training, instruction tuning, multi-task.

    Ctrl-C saves and stops; --resume continues, on the same machine to the bit. What the stage changed is written as an
    adapter to OUT/adapter: the next stage takes it with --adapter.
    """
    from ..train.stages.config import load_stage, read_changes, read_stage_file

    number = _stage(stage)
    check_exists("--config", config)
    changes = read_changes(config) if config else {}
    named = changes.pop("data", None)
    chosen = load_stage(number, values, _changes(changes, precision=precision))
    if show:
        print_json("stage", {"notes": read_stage_file(number)["notes"], "config": chosen.to_dict()})
        return
    if not data and named is None:
        raise InvalidArgumentError("train needs --data, expected a json file or more, or data sets named in --config")
    if named is not None and (data or images):
        raise InvalidArgumentError(f"--config {config} names data sets, expected neither --data nor --images with it")
    with _processes(parallel, device) as world:
        quiet = quiet or not world.first
        with world.agreeing():
            what = _launch(
                "train", model, chosen, data or [], out, adapter, images, None, features, resume, allow_other_code,
                tensorboard, device, quiet,
            )  # fmt: skip
            if named is not None and config is not None:
                from ..data.readers.config import read_sets

                what = dataclasses.replace(what, sets=read_sets(named, config.parent))
        trainer, finished = _run(dataclasses.replace(what, world=world), f"stage {number}", minutes, threads, quiet)
        if world.first:
            _show("train", trainer, finished, None, json_output)


@contextmanager
def _processes(parallel: Literal["ddp", "fsdp"] | None, device: str) -> Iterator[World]:
    """The processes of the run. What all of them have found is reported by the first; the others end in silence."""
    from ..train.stages.world import ReportedByFirst, open_world

    try:
        with open_world(parallel, device) as world, world.guard():
            yield world
    except ReportedByFirst:
        raise typer.Exit(EXIT_BAD_INPUT) from None


def finetune(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="LLaVA conversations, VQA triples or COCO boxes (json).")
    ],
    out: Out,
    model: options.Model = None,
    config: Config = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the optimiser (default 300).")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate after the warm-up (default 1e-3).")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Examples per step (default 16).")] = None,
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Examples of what the model knows already, mixed in.")
    ] = None,
    replay_ratio: Annotated[
        float | None, typer.Option(min=0, max=0.99, help="Their share of each batch (default 0.5).")
    ] = None,
    unfreeze: Annotated[
        Literal["qformer"] | None, typer.Option(help="Train the Q-Former too: for things it has never seen.")
    ] = None,
    merge: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write the model with the adapter in it, quantised.")
    ] = None,
    merge_quantization: Annotated[
        Literal["int4", "int8", "none"] | None, typer.Option(help="How (default: as the model is, else int4).")
    ] = None,
    adapter: Adapter = None,
    images: Images = None,
    resume: Resume = False,
    allow_other_code: OtherCode = False,
    features: Features = None,
    precision: Precision = None,
    device: Device = "cpu",
    parallel: Parallel = None,
    minutes: Minutes = None,
    tensorboard: TensorBoard = False,
    threads: options.Threads = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Teach a finished model from examples of one's own.

    The file's form is told by its content. Writes an adapter in PEFT's layout to OUT/adapter, for
    from_pretrained(..., adapter=...); with --merge also a model directory of its own. A quantised model is trained from
    its dequantised weights.
    """
    from ..train.stages.config import FINETUNE, load_stage, read_changes

    check_exists("DATA", data)
    for option, path in (("--config", config), ("--replay", replay)):
        check_exists(option, path)
    if merge is not None and merge.exists():
        raise InvalidArgumentError(f"--merge is {merge}, which exists; expected a new directory")
    if replay_ratio is not None and replay is None:
        raise InvalidArgumentError("--replay-ratio is given without --replay, expected the file to draw from")
    changes = _changes(
        read_changes(config) if config else {},
        steps_per_epoch=steps,
        init_lr=lr,
        min_lr=None if lr is None else lr / 10,
        batch_size=batch_size,
        replay_ratio=replay_ratio,
        qformer=True if unfreeze else None,
        precision=precision,
    )
    chosen = load_stage(FINETUNE, changes=changes)
    with _processes(parallel, device) as world:
        quiet = quiet or not world.first
        with world.agreeing():
            what = _launch(
                "finetune", model, chosen, [data], out, adapter, images, replay, features, resume, allow_other_code,
                tensorboard, device, quiet,
            )  # fmt: skip
        trainer, finished = _run(dataclasses.replace(what, world=world), "fine-tuning", minutes, threads, quiet)
        if not world.first:
            return
        if merge is not None and finished:
            from ..train.stages.launch import merge as write

            write(what, merge, quantization=merge_quantization)
        _show("finetune", trainer, finished, merge if finished else None, json_output)


def _stage(text: str) -> int:
    if text not in ("1", "2", "3", "4"):
        raise InvalidArgumentError(f"--stage is {text!r}, expected 1, 2, 3 or 4")
    return int(text)


def _changes(base: dict[str, Any], **given: Any) -> dict[str, Any]:
    """``base`` with what the command line gave."""
    return {**base, **{name: value for name, value in given.items() if value is not None}}


def _launch(
    command: str,
    model: str | None,
    config: StageConfig,
    data: list[Path],
    out: Path,
    adapter: Path | None,
    images: Path | None,
    replay: Path | None,
    features: Path | None,
    resume: bool,
    allow_other_code: bool,
    tensorboard: bool,
    device: str,
    quiet: bool,
) -> Launch:
    """Check what needs no torch, then say what is to be run."""
    name = need_model(model, command)
    for path in data:
        check_exists("--data", path)
    check_exists("--images", images, directory=True)
    check_exists("--adapter", adapter, directory=True)
    if out.exists() and not out.is_dir():
        raise InvalidArgumentError(f"--out is {out}, a file, expected a directory")
    from ..train.stages.launch import Launch

    return Launch(
        config,
        name,
        data,
        out,
        adapter,
        images,
        replay,
        features,
        resume,
        allow_other_code,
        tensorboard,
        device,
        note=lambda text: note(text, quiet=quiet),
    )


def _run(what: Launch, title: str, minutes: float | None, threads: int | None, quiet: bool) -> tuple[Trainer, bool]:
    from ..heap import keep_heap
    from ..train.stages.launch import batches_of, launch
    from ..train.stages.report import bar

    use_threads(threads, what.world.local_size)
    keep_heap()
    with what.world.agreeing(), progress("reading", quiet=quiet) as report:
        batches = batches_of(what, report)
    ends = None if minutes is None else time.monotonic() + 60 * minutes
    try:
        with bar(title, sys.stderr, quiet=quiet) as listener:
            return launch(what, [listener], lambda: ends is not None and time.monotonic() > ends, batches)
    except KeyboardInterrupt:
        note(f"stopped; the state is in {what.out}, --resume continues", quiet=quiet)
        raise


def _show(kind: str, trainer: Trainer, finished: bool, merged: Path | None, json_output: bool) -> None:
    from ..data.readers.mix import Mix
    from ..train.stages.report import LOG_FILE, read_log
    from ..train.stages.run import ADAPTER

    losses = [line["loss"] for line in read_log(trainer.out / LOG_FILE)][-20:]
    result = {
        "finished": finished,
        "step": trainer.progress.step,
        "steps": trainer.config.steps,
        "seconds": round(trainer.progress.seconds, 1),
        "loss": round(sum(losses) / len(losses), 4) if losses else None,
        "adapter": str(trainer.out / ADAPTER) if finished else None,
        "merged": str(merged) if merged else None,
    }
    sets = trainer.batches.summary() if isinstance(trainer.batches, Mix) else {}
    if json_output:
        print_json(kind, {**result, "data": sets} if sets else result)
        return
    screen = console()
    for name, facts in sets.items():
        if facts["bad"]:
            reasons = ", ".join(f"{count} {reason}" for reason, count in facts["reasons"].items())
            screen.print(f"{name}: {facts['bad']} records left out: {reasons}")
    screen.print(f"{result['step']} of {result['steps']} steps in {result['seconds']} s, loss {result['loss']}")
    if finished:
        screen.print(f"adapter: {result['adapter']}" + (f", merged model: {merged}" if merged else ""))
    else:
        screen.print("stopped before the end; --resume continues")
