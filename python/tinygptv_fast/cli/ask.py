"""``ask``: any question about a picture, or many about many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InvalidArgumentError
from . import completion, options
from . import constraints as held
from .asking import Common, given, show_answer
from .batch import ask_all, check_out, expand, is_batch
from .constraints import constraints
from .models import loaded
from .options import check_task, check_template, need_model
from .pictures import STDIN

NO_PICTURE = "none"


def ask(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE... QUESTION",
            help="A picture file (or several, or a quoted pattern; - for standard input, 'none' for text only), then "
            "the question, unless -q gives it.",
        ),
    ],
    model: options.Model = None,
    question: Annotated[
        list[str] | None, typer.Option("--question", "-q", help="What to ask. Repeat the option to ask several things.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write json lines here; the same command again goes on where it stopped."),
    ] = None,
    backend: options.Backend = "native",
    task: Annotated[
        str | None,
        typer.Option(
            help="Put a task tag before the question: vqa, caption, refer, identify, grounding, detection.",
            autocompletion=completion.tasks,
        ),
    ] = None,
    template: options.Template = None,
    max_new_tokens: options.MaxNewTokens = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="Sample at this temperature; 0 or not given is greedy.")
    ] = None,
    top_p: Annotated[float | None, typer.Option(help="With --temperature: nucleus sampling, 0..1.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="With --temperature: the k most likely tokens.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="With --temperature: the same answer again.")] = None,
    boxes: held.Boxes = None,
    json_schema: held.JsonSchema = None,
    regex: held.Regex = None,
    choice: held.Choice = None,
    choices: held.Choices = None,
    draw: options.Draw = None,
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    json_output: options.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars, no notes.")] = False,
) -> None:
    """Ask a model a question about a picture, or about many.

    The answer goes to stdout (boxes in pixels, one per line, behind it), a line about it to stderr. Several pictures or
    questions, a pattern or --out: one line of json per answer.

    --boxes, --json-schema, --regex and --choices, one at a time, hold the answer to a form.
    """
    check_task(task)
    check_template(template)
    images, questions = _split(words, question)
    sampling = given(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
    form = constraints(
        boxes=boxes, json_schema=json_schema, regex=regex, choice=choice, choices=choices, sampling=sampling
    )
    settings = given(task=task, template=template, max_new_tokens=max_new_tokens) | sampling | form
    common = Common(model, backend, dtype, threads, draw, json_output, quiet)
    if is_batch(images, questions, out):
        _batch(images, questions, settings, out, common)
        return
    picture = None if images[0] == NO_PICTURE else images[0]
    show_answer("ask", picture, lambda opened, shown: opened.generate(shown, questions[0], **settings), common)


def _split(words: list[str], questions: list[str] | None) -> tuple[list[str], list[str]]:
    """Pictures and questions: without -q the last word is the question."""
    if questions:
        return words, questions
    if len(words) < 2:
        raise InvalidArgumentError("QUESTION is missing, expected it behind IMAGE, or given by -q")
    return words[:-1], words[-1:]


def _batch(images: list[str], questions: list[str], settings: dict[str, Any], out: Path | None, common: Common) -> None:
    name = need_model(common.model, "ask")
    if common.draw is not None:
        raise InvalidArgumentError("--draw is given with several answers, expected one picture and one question")
    special = next((image for image in images if image in (STDIN, NO_PICTURE)), None)
    if special is not None:
        raise InvalidArgumentError(f"image is {special!r} among several answers, expected picture files")
    pictures = expand(images)
    check_out(out)
    with loaded(name, backend=common.backend, dtype=common.dtype, threads=common.threads, quiet=common.quiet) as opened:
        ask_all(opened, pictures, questions, settings, out, common.quiet)
