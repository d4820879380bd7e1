"""Options that several commands share, and the checks of them that need no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import InvalidArgumentError
from . import completion

MODEL_CHOICES = (
    "'demo' (the small model that ships with the package), a directory written by 'tinygptv convert', "
    "or a hub id owner/name"
)

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="DIR|demo|ID",
        help=f"Which model: {MODEL_CHOICES}.",
        autocompletion=completion.models,
    ),
]
Backend = Annotated[
    Literal["native", "reference"],
    typer.Option(help="What decodes: the engine of this package, or 'reference', plain torch: exact and slow."),
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16"],
    typer.Option(help="What is computed in (auto: the weights as stored; reference: float32)."),
]
Json = Annotated[bool, typer.Option("--json", help="Write one json object with schema_version.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars, no notes.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=1024, help="Threads for computation (default: TINYGPTV_THREADS, else physical cores)."),
]
Template = Annotated[
    str | None,
    typer.Option(help="Prompt template by name (default: the model directory's).", autocompletion=completion.templates),
]
MaxNewTokens = Annotated[
    int | None, typer.Option(min=1, help="Longest answer in tokens (default: the model directory's, else 256).")
]
Draw = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the picture with the answer's boxes (.png or .jpg).")
]
Image = Annotated[str, typer.Argument(metavar="IMAGE", help="A picture file, or - for standard input.")]


def need_model(model: str | None, command: str) -> str:
    """``model``, or an error that lists the choices: no command but ``demo`` picks a model by itself."""
    if model is None:
        raise InvalidArgumentError(f"{command} needs --model, expected {MODEL_CHOICES}")
    return model


def check_exists(option: str, path: Path | None, *, directory: bool = False) -> None:
    """Raise unless ``path`` is there and of the kind expected; None passes."""
    if path is None:
        return
    if not path.exists():
        raise InvalidArgumentError(f"{option} is {path}, which does not exist")
    if directory and not path.is_dir():
        raise InvalidArgumentError(f"{option} is {path}, expected a directory")
    if not directory and path.is_dir():
        raise InvalidArgumentError(f"{option} is {path}, a directory, expected a file")


def check_template(template: str | None) -> None:
    """Raise ``PromptError`` listing the names unless ``template`` is one of them or None."""
    if template is not None:
        from ..processing.templates import get_template

        get_template(template)


def check_task(task: str | None) -> None:
    """Raise ``PromptError`` listing the names unless ``task`` is one of them or None."""
    if task is not None:
        from ..processing.prompt import get_task

        get_task(task)
