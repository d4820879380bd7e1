"""Questions that are built in: ``caption describe refer ground detect identify``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvalidArgumentError
from . import constraints as held
from . import options
from .asking import Common, given, show_answer, show_boxes
from .constraints import constraints

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..generate import TinyGPTV
    from ..processing.boxes import Boxes

ThePhrase = Annotated[str, typer.Argument(metavar="PHRASE", help='What to find, such as "the red circle".')]


def caption(
    image: options.Image,
    model: options.Model = None,
    backend: options.Backend = "native",
    max_new_tokens: options.MaxNewTokens = None,
    boxes: held.Boxes = None,
    json_schema: held.JsonSchema = None,
    regex: held.Regex = None,
    choice: held.Choice = None,
    choices: held.Choices = None,
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """A short caption of a picture (task tag \\[caption])."""
    form = constraints(boxes=boxes, json_schema=json_schema, regex=regex, choice=choice, choices=choices)
    settings = given(max_new_tokens=max_new_tokens) | form
    common = Common(model, backend, dtype, threads, None, json_output, quiet)
    show_answer("caption", image, lambda opened, shown: opened.caption(shown, **settings), common)


def describe(
    image: options.Image,
    model: options.Model = None,
    backend: options.Backend = "native",
    max_new_tokens: options.MaxNewTokens = None,
    boxes: held.Boxes = None,
    draw: options.Draw = None,
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """A description whose phrases have boxes (task tag \\[grounding])."""
    settings = given(max_new_tokens=max_new_tokens, boxes=boxes)
    common = Common(model, backend, dtype, threads, draw, json_output, quiet)
    show_answer("describe", image, lambda opened, shown: opened.describe(shown, **settings), common)


def refer(
    image: options.Image,
    phrase: ThePhrase,
    model: options.Model = None,
    backend: options.Backend = "native",
    boxes: held.Boxes = None,
    draw: options.Draw = None,
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Where the thing is that a phrase means: one box per line, in pixels (task tag \\[refer])."""
    _find("refer", image, phrase, boxes, Common(model, backend, dtype, threads, draw, json_output, quiet))


def ground(
    image: options.Image,
    phrase: ThePhrase,
    model: options.Model = None,
    backend: options.Backend = "native",
    boxes: held.Boxes = None,
    draw: options.Draw = None,
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """The same as refer: where the thing is that a phrase means."""
    _find("ground", image, phrase, boxes, Common(model, backend, dtype, threads, draw, json_output, quiet))


def detect(
    image: options.Image,
    phrase: Annotated[str, typer.Argument(metavar="PHRASE", help='What to find all of, such as "circle".')],
    model: options.Model = None,
    backend: options.Backend = "native",
    boxes: held.Boxes = None,
    draw: options.Draw = None,
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """All things of one kind: one box per line, in pixels (task tag \\[detection])."""
    _find("detect", image, phrase, boxes, Common(model, backend, dtype, threads, draw, json_output, quiet))


def identify(
    image: options.Image,
    box: Annotated[str, typer.Argument(metavar="X1,Y1,X2,Y2", help="A box in pixels of the upright picture.")],
    model: options.Model = None,
    backend: options.Backend = "native",
    max_new_tokens: options.MaxNewTokens = None,
    json_schema: held.JsonSchema = None,
    regex: held.Regex = None,
    choice: held.Choice = None,
    choices: held.Choices = None,
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """What is inside a box (task tag \\[identify])."""
    corners = _corners(box)
    form = constraints(json_schema=json_schema, regex=regex, choice=choice, choices=choices)
    settings = given(max_new_tokens=max_new_tokens) | form
    common = Common(model, backend, dtype, threads, None, json_output, quiet)
    show_answer("identify", image, lambda opened, shown: opened.identify(shown, corners, **settings), common)


def _find(command: str, image: str, phrase: str, boxes: str | None, common: Common) -> None:
    """Where ``phrase`` is, by the facade's method of that name. A form that is no box would leave nothing to show, so
    these commands take ``--boxes`` alone."""
    settings: dict[str, Any] = given(boxes=boxes)

    def find(opened: TinyGPTV, shown: Image | None) -> Boxes:
        found: Boxes = getattr(opened, command)(shown, phrase, **settings)
        return found

    show_boxes(command, image, phrase, find, common)


def _corners(text: str) -> tuple[float, float, float, float]:
    try:
        x1, y1, x2, y2 = (float(part) for part in text.split(","))
    except ValueError:
        raise InvalidArgumentError(f"box is {text!r}, expected four numbers x1,y1,x2,y2") from None
    return x1, y1, x2, y2
