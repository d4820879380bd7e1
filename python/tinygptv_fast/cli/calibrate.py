"""``calibrate``: from questions with known answers to a ``confidence`` that can be believed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvalidArgumentError
from . import options
from .batch import check_out
from .models import loaded, note
from .options import check_exists, check_template, need_model
from .output import console, print_json, progress

if TYPE_CHECKING:
    from ..diagnosis.calibrating import Outcome
    from ..diagnosis.reliability import Reliability


def calibrate(
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="Questions with their answers: VQA triples, LLaVA, or COCO boxes (json)."),
    ],
    model: options.Model = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a copy of the model with its calibration (default: into the model)."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where pictures are (default: beside the data).")
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where answers are kept to go on from (default: DATA.answers.jsonl)."),
    ] = None,
    max_new_tokens: options.MaxNewTokens = None,
    template: options.Template = None,
    backend: options.Backend = "native",
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Fit how far a model's probabilities can be believed, and write it into the model's directory.

    The questions are answered and compared with the accepted answers; from then on every answer has a confidence. Use
    questions like those you will ask, of pictures the model was not trained on; some hundreds at least. Ctrl-C keeps
    the answers: the same command goes on with the rest.
    """
    name = need_model(model, "calibrate")
    check_exists("DATA", data)
    check_exists("--images", images, directory=True)
    check_template(template)
    kept = data.with_name(f"{data.name}.answers.jsonl") if answers is None else answers
    check_out(kept, "--answers")
    if out is not None and out.exists():
        raise InvalidArgumentError(f"--out is {out}, which exists; expected a new directory")
    if out is None and (name == "demo" or not Path(name).is_dir()):
        raise InvalidArgumentError(f"--model is {name!r}, no directory to write into; expected --out with it")
    outcome, source = _calibrate(
        data,
        name,
        images,
        kept,
        {"max_new_tokens": max_new_tokens, "template": template},
        backend,
        dtype,
        threads,
        quiet,
    )
    target = _write(outcome, source, out)
    if json_output:
        print_json("calibration", {"path": str(target), **outcome.to_dict()})
    else:
        _show(outcome, target)


def _calibrate(
    data: Path,
    name: str,
    images: Path | None,
    kept: Path,
    settings: dict[str, Any],
    backend: str,
    dtype: str,
    threads: int | None,
    quiet: bool,
) -> tuple[Outcome, Path]:
    from ..diagnosis.answering import answer_examples
    from ..diagnosis.calibrating import calibrate as fit
    from ..train.stages.readers import read_examples

    file = read_examples(data, images)
    given = {key: value for key, value in settings.items() if value is not None}
    with loaded(name, backend=backend, dtype=dtype, threads=threads, quiet=quiet) as opened:
        try:
            with progress(f"{len(file.examples)} questions", quiet=quiet) as bar:
                said = answer_examples(opened, file.examples, file.digest, given, kept, lambda n, m: bar(n, m))
        except KeyboardInterrupt:
            note(f"tinygptv: the answers so far are in {kept}; the same command goes on with the rest", quiet=quiet)
            raise
        return fit(opened.info["model_id"], file.examples, said), Path(opened.info["path"])


def _write(outcome: Outcome, source: Path, out: Path | None) -> Path:
    """Into the model's directory, or into a copy of it that appears whole or not at all."""
    from ..checkpoint.atomic import atomic_directory
    from ..generate.confidence import write_calibration

    if out is None:
        return write_calibration(source, outcome.calibration)
    size = sum(path.stat().st_size for path in source.iterdir() if path.is_file())
    with atomic_directory(out, overwrite=False, needed_bytes=size) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        path = write_calibration(folder, outcome.calibration)
    return out / path.name


def _show(outcome: Outcome, target: Path) -> None:
    screen = console()
    fitted = outcome.calibration.fitted
    screen.print(f"{outcome.raw.count} answers, {outcome.raw.right:.1%} right; map: {fitted['form']}")
    if outcome.cut_short:
        screen.print(f"{outcome.cut_short} answers were cut short and left out")
    screen.print(f"{'':<22} {'error':>8} {'Brier':>8} {'nll':>8}")
    _line(screen, "probability", outcome.raw)
    _line(screen, "confidence, held out", outcome.stated)
    if outcome.choices is not None and outcome.raw_choices is not None:
        _line(screen, "choices, temperature 1", outcome.raw_choices)
        _line(screen, "choices, fitted", outcome.choices)
    screen.print(f"written: {target}", soft_wrap=True)


def _line(screen: Any, name: str, found: Reliability) -> None:
    screen.print(f"{name:<22} {found.ece:>8.4f} {found.brier:>8.4f} {found.nll:>8.4f}")
