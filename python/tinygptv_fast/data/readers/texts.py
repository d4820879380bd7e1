"""Questions, answers and box texts as the original's data sets prepare them, and what may not be in them.

The original sends most texts through its caption clean-up (``compat.caption.blip_caption``): lower case, some
punctuation to spaces, at most 50 words. Which ones differs by data set and is each reader's business.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...compat.caption import blip_caption
from ...errors import InvalidArgumentError
from ...processing.boxes import format_box, parse_boxes
from ...processing.templates import RESERVED
from .faults import BadRecord, Reason
from .pictures import Picture

MAX_TEXT = 20_000  # characters of one question or answer; the longest honest ones have 4,000
_SLACK = 1.0  # pixels by which honest boxes pass the picture's edge


def usable(text: str, what: str, where: str, *, clean: bool = False) -> str:
    """``text`` stripped and, with ``clean``, cleaned up; ``what`` names it in errors.

    Raises BadRecord: nothing is left, longer than 20,000 characters, not encodable (a lone surrogate), or one of the
    strings that mean something to every template (``<ImageHere>``, ``<Img>``, ``</Img>``, ``###``) is in it.
    """
    if len(text) > MAX_TEXT:
        raise BadRecord(Reason.TOO_LARGE, where, f"its {what} has {len(text)} characters, expected at most {MAX_TEXT}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRecord(Reason.MALFORMED, where, f"its {what} is not unicode: {error.reason}") from None
    text = (blip_caption(text) if clean else text).strip()
    if not text:
        raise BadRecord(Reason.EMPTY, where, f"its {what} is empty, expected text")
    mark = next((mark for mark in RESERVED if mark in text), None)
    if mark is not None:
        raise BadRecord(Reason.RESERVED, where, f"its {what} contains {mark!r}, which templates use")
    return text


def boxed(text: str, what: str, where: str) -> str:
    """``usable`` text whose boxes ``{<x1><y1><x2><y2>}`` are all boxes. Raises BadRecord (BAD_BOX) as well."""
    text = usable(text, what, where)
    dropped = parse_boxes(text, 100, 100).dropped
    if dropped:
        raise BadRecord(Reason.BAD_BOX, where, f"its {what} has the box {dropped[0].text[:60]!r}: {dropped[0].reason}")
    return text


def box_text(xywh: Sequence[float], picture: Picture, where: str) -> str:
    """``{<x1><y1><x2><y2>}``, truncated hundredths (coco_dataset.py), of left, top, width, height in pixels.

    Raises BadRecord for a box that has no area or passes the picture's edge by more than a pixel, and for a picture
    that EXIF data turn: which way its boxes are meant cannot be known.
    """
    x, y, w, h = xywh
    width, height = picture.width, picture.height
    inside = w > 0 and h > 0 and min(x, y) >= -_SLACK and x + w <= width + _SLACK and y + h <= height + _SLACK
    if not inside:
        raise BadRecord(
            Reason.BAD_BOX, where, f"its box {list(xywh)} is not inside the picture of {width}x{height} pixels"
        )
    if picture.turned:
        raise BadRecord(
            Reason.TURNED, where, f"its picture {picture.path} is turned by EXIF data, its boxes may not be"
        )
    try:
        return format_box((max(0.0, x), max(0.0, y), x + w, y + h), width, height)
    except InvalidArgumentError as error:
        raise BadRecord(Reason.BAD_BOX, where, str(error)) from None
