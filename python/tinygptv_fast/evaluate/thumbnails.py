"""Small pictures for a report, with the true boxes and the answered ones drawn on them."""

from __future__ import annotations

import base64
import io

from PIL import Image, ImageDraw

from ..errors import ImageError
from ..processing.image import ImageProcessor
from .figures import Scored
from .question import Quad
from .sets.refcoco import answer_boxes

SIDE = 320  # pixels of the longer side
_TRUE, _SAID = (0, 140, 70), (210, 40, 40)
_LOADER = ImageProcessor(224)  # the side is of no account: only load() is used


def thumbnail(scored: Scored) -> str | None:
    """A data URI of the question's picture; None if it can no longer be read. Of a question about a place the true box
    is green and the answered ones are red."""
    try:
        picture = _LOADER.load(scored.question.image)
    except ImageError:
        return None
    picture = picture.copy()
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    target = scored.question.target
    if target is not None:
        _draw(picture, [target.xyxy], (target.width, target.height), _TRUE)
        _draw(picture, answer_boxes(scored.question, scored.given), (target.width, target.height), _SAID)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"


def _draw(picture: Image.Image, boxes: list[Quad], size: tuple[float, float], colour: tuple[int, int, int]) -> None:
    """Boxes in pixels of a picture of ``size``. An inverted one, which a model may write, has its corners exchanged."""
    pen = ImageDraw.Draw(picture)
    across, down = picture.width / size[0], picture.height / size[1]
    for x1, y1, x2, y2 in boxes:
        corners = sorted((x1 * across, x2 * across)), sorted((y1 * down, y2 * down))
        pen.rectangle((corners[0][0], corners[1][0], corners[0][1], corners[1][1]), outline=colour, width=2)
