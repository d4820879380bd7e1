"""What ``ask`` and its short forms share: their common options, one question about one picture, and what is shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InvalidArgumentError
from .models import loaded, note
from .options import need_model
from .output import print_json, printable
from .pictures import check_target, read_picture, save_picture

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..generate import Answer, TinyGPTV
    from ..processing.boxes import Boxes


@dataclass(frozen=True)
class Common:
    """The options every one of these commands has."""

    model: str | None
    backend: Literal["native", "reference"]
    dtype: Literal["auto", "float32", "bfloat16"]
    threads: int | None
    draw: Path | None
    json_output: bool
    quiet: bool


def given(**settings: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in settings.items() if value is not None}


def show_answer(
    command: str, source: str | None, work: Callable[[TinyGPTV, Image | None], Answer], common: Common
) -> None:
    """``work``'s answer about the picture ``source``: text and boxes on stdout, a line about it on stderr; or json."""
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


def show_boxes(
    command: str, source: str, phrase: str, work: Callable[[TinyGPTV, Image | None], Boxes], common: Common
) -> None:
    """``work``'s boxes for ``phrase`` in the picture ``source``."""
    picture, boxes = _run(command, source, work, common)
    _draw(boxes, picture, common.draw)
    if common.json_output:
        print_json("boxes", {"phrase": phrase, "boxes": boxes.to_dict()})
        return
    _print_boxes(boxes)
    if not boxes:
        note(f"no box for {phrase!r}", quiet=common.quiet)


def _run(
    command: str, source: str | None, work: Callable[[TinyGPTV, Image | None], Any], common: Common
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


def _print_boxes(boxes: Boxes) -> None:
    for box in boxes:
        corners = " ".join(f"{value:.1f}" for value in box.xyxy)
        print(f"  {corners}  {printable(box.label)}" if box.label else f"  {corners}")


def _draw(boxes: Boxes, picture: Image | None, target: Path | None) -> None:
    if target is not None and picture is not None:
        save_picture(boxes.draw(picture), target)
