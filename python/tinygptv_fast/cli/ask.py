"""``ask`` and its short forms ``caption describe refer ground detect identify``: questions about pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import InvalidArgumentError
from . import options
from .batch import ask_all, check_out, expand, is_batch
from .models import loaded, note
from .options import check_task, check_template, need_model
from .output import print_json, printable
from .pictures import STDIN, check_target, read_picture, save_picture

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..generate import Answer, TinyGPTV
    from ..processing.boxes import Boxes

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
        typer.Option(help="Put a task tag before the question: vqa, caption, refer, identify, grounding, detection."),
    ] = None,
    template: options.Template = None,
    max_new_tokens: options.MaxNewTokens = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="Sample at this temperature; 0 or not given is greedy.")
    ] = None,
    top_p: Annotated[float | None, typer.Option(help="With --temperature: nucleus sampling, 0..1.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="With --temperature: the k most likely tokens.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="With --temperature: the same answer again.")] = None,
    choice: Annotated[
        list[str] | None, typer.Option(help="Answer with one of these, the most likely first. Repeat the option.")
    ] = None,
    draw: options.Draw = None,
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    json_output: options.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars, no notes.")] = False,
) -> None:
    """Ask a model a question about a picture, or about many.

    The answer goes to stdout (boxes in pixels, one per line, behind it), a line about it to stderr. Several pictures or
    questions, a pattern or --out: one line of json per answer.
    """
    check_task(task)
    check_template(template)
    images, questions = _split(words, question)
    asked: dict[str, Any] = {
        "task": task,
        "template": template,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "seed": seed,
        "choices": choice or None,
    }
    settings = {name: value for name, value in asked.items() if value is not None}
    common = _Common(model, backend, dtype, threads, draw, json_output, quiet)
    if is_batch(images, questions, out):
        _batch(images, questions, settings, out, common)
        return
    picture = None if images[0] == NO_PICTURE else images[0]
    _answer("ask", picture, lambda opened, shown: opened.generate(shown, questions[0], **settings), common)


def _split(words: list[str], questions: list[str] | None) -> tuple[list[str], list[str]]:
    """Pictures and questions: without -q the last word is the question."""
    if questions:
        return words, questions
    if len(words) < 2:
        raise InvalidArgumentError("QUESTION is missing, expected it behind IMAGE, or given by -q")
    return words[:-1], words[-1:]


def _batch(
    images: list[str], questions: list[str], settings: dict[str, Any], out: Path | None, common: _Common
) -> None:
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


def caption(
    image: options.Image,
    model: options.Model = None,
    backend: options.Backend = "native",
    max_new_tokens: options.MaxNewTokens = None,
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """A short caption of a picture (task tag \\[caption])."""
    settings = _given(max_new_tokens=max_new_tokens)
    common = _Common(model, backend, dtype, threads, None, json_output, quiet)
    _answer("caption", image, lambda opened, shown: opened.caption(shown, **settings), common)


def describe(
    image: options.Image,
    model: options.Model = None,
    backend: options.Backend = "native",
    max_new_tokens: options.MaxNewTokens = None,
    draw: options.Draw = None,
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """A description whose phrases have boxes (task tag \\[grounding])."""
    settings = _given(max_new_tokens=max_new_tokens)
    common = _Common(model, backend, dtype, threads, draw, json_output, quiet)
    _answer("describe", image, lambda opened, shown: opened.describe(shown, **settings), common)


def refer(
    image: options.Image,
    phrase: Annotated[str, typer.Argument(metavar="PHRASE", help='What to find, such as "the red circle".')],
    model: options.Model = None,
    backend: options.Backend = "native",
    draw: options.Draw = None,
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Where the thing is that a phrase means: one box per line, in pixels (task tag \\[refer])."""
    common = _Common(model, backend, dtype, threads, draw, json_output, quiet)
    _boxes("refer", image, phrase, lambda opened, shown: opened.refer(shown, phrase), common)


def ground(
    image: options.Image,
    phrase: Annotated[str, typer.Argument(metavar="PHRASE", help='What to find, such as "the red circle".')],
    model: options.Model = None,
    backend: options.Backend = "native",
    draw: options.Draw = None,
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """The same as refer: where the thing is that a phrase means."""
    common = _Common(model, backend, dtype, threads, draw, json_output, quiet)
    _boxes("ground", image, phrase, lambda opened, shown: opened.ground(shown, phrase), common)


def detect(
    image: options.Image,
    phrase: Annotated[str, typer.Argument(metavar="PHRASE", help='What to find all of, such as "circle".')],
    model: options.Model = None,
    backend: options.Backend = "native",
    draw: options.Draw = None,
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """All things of one kind: one box per line, in pixels (task tag \\[detection])."""
    common = _Common(model, backend, dtype, threads, draw, json_output, quiet)
    _boxes("detect", image, phrase, lambda opened, shown: opened.detect(shown, phrase), common)


def identify(
    image: options.Image,
    box: Annotated[str, typer.Argument(metavar="X1,Y1,X2,Y2", help="A box in pixels of the upright picture.")],
    model: options.Model = None,
    backend: options.Backend = "native",
    max_new_tokens: options.MaxNewTokens = None,
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """What is inside a box (task tag \\[identify])."""
    corners = _corners(box)
    settings = _given(max_new_tokens=max_new_tokens)
    common = _Common(model, backend, dtype, threads, None, json_output, quiet)
    _answer("identify", image, lambda opened, shown: opened.identify(shown, corners, **settings), common)


class _Common:
    """The options every one of these commands has."""

    def __init__(
        self,
        model: str | None,
        backend: Literal["native", "reference"],
        dtype: Literal["auto", "float32", "bfloat16"],
        threads: int | None,
        draw: Path | None,
        json_output: bool,
        quiet: bool,
    ) -> None:
        self.model, self.backend, self.dtype, self.threads = model, backend, dtype, threads
        self.draw, self.json_output, self.quiet = draw, json_output, quiet


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _corners(text: str) -> tuple[float, float, float, float]:
    try:
        x1, y1, x2, y2 = (float(part) for part in text.split(","))
    except ValueError:
        raise InvalidArgumentError(f"box is {text!r}, expected four numbers x1,y1,x2,y2") from None
    return x1, y1, x2, y2


def _run(
    command: str, source: str | None, work: Callable[[TinyGPTV, Image | None], Any], common: _Common
) -> tuple[Image | None, Any]:
    """Everything that can be wrong with the arguments first, then the model, then ``work``."""
    model = need_model(common.model, command)
    check_target("--draw", common.draw)
    if common.draw is not None and source is None:
        raise InvalidArgumentError("--draw is given but there is no picture")
    picture = None if source is None else read_picture(source)
    with loaded(
        model,
        backend=common.backend,
        dtype=common.dtype,
        vision=picture is not None,
        threads=common.threads,
        quiet=common.quiet,
    ) as opened:
        return picture, work(opened, picture)


def _answer(
    command: str, source: str | None, work: Callable[[TinyGPTV, Image | None], Answer], common: _Common
) -> None:
    picture, answer = _run(command, source, work, common)
    _draw(answer.boxes, picture, common.draw)
    if common.json_output:
        sys.stdout.write(json.dumps(answer.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        return
    print(printable(answer.text))
    _print_boxes(answer.boxes)
    for other in answer.alternatives:
        print(f"  or: {printable(other.text)}  (probability {other.probability:.3g})")
    sure = "" if answer.confidence is None else f"confidence {answer.confidence:.3g}, "
    note(
        f"probability {answer.probability:.3g}, {sure}{answer.usage.generated} tokens, {answer.finish_reason}, "
        f"{answer.timings.total:.0f} ms (vision {answer.timings.vision:.0f} ms)",
        quiet=common.quiet,
    )


def _boxes(
    command: str, source: str, phrase: str, work: Callable[[TinyGPTV, Image | None], Boxes], common: _Common
) -> None:
    picture, boxes = _run(command, source, work, common)
    _draw(boxes, picture, common.draw)
    if common.json_output:
        print_json("boxes", {"phrase": phrase, "boxes": boxes.to_dict()})
        return
    _print_boxes(boxes)
    if not boxes:
        note(f"no box for {phrase!r}", quiet=common.quiet)


def _print_boxes(boxes: Boxes) -> None:
    for box in boxes:
        corners = " ".join(f"{value:.1f}" for value in box.xyxy)
        print(f"  {corners}  {printable(box.label)}" if box.label else f"  {corners}")


def _draw(boxes: Boxes, picture: Image | None, target: Path | None) -> None:
    if target is not None and picture is not None:
        save_picture(boxes.draw(picture), target)
