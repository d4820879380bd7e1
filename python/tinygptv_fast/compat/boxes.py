"""The original's box text, drawing and REC scoring, quirks included, without OpenCV or gradio.

``visualize`` gives the calls the original's demo makes (rectangles, label positions, coloured html), not the picture:
use ``processing.boxes.Boxes.draw`` for one. Sources: demo_v2.py, minigpt4/common/eval_utils.py,
eval_scripts/eval_ref.py, minigpt4/datasets/datasets/coco_dataset.py.
"""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgumentError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

RESOLUTION = 100
DRAWN_WIDTH = 500
COLOURS = (
    (255, 0, 0), (0, 255, 0), (0, 0, 255), (210, 210, 0), (255, 0, 255), (0, 255, 255), (114, 128, 250), (0, 165, 255),
    (0, 128, 0), (144, 238, 144), (238, 238, 175), (255, 191, 0), (0, 128, 0), (226, 43, 138), (255, 0, 255),
    (0, 215, 255),
)  # fmt: skip
_THICKNESS = 2
_INSET = 1  # the label starts this far outside the rectangle's corner ...
_INSET_BELOW = 2  # ... or this far inside it, when there is no room above
_GAP = 2

# OpenCV 4's FONT_HERSHEY_COMPLEX: advance of the characters 32..126 in font units; text is 0.5 of that, one pixel more,
# and 12 pixels high. Every other character is drawn as '?'.
_ADVANCE = (
    16, 10, 16, 22, 20, 24, 25, 8, 14, 14, 16, 26, 10, 26, 10, 22, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 10, 10,
    24, 26, 24, 18, 27, 20, 22, 21, 22, 21, 20, 23, 24, 11, 15, 22, 18, 25, 23, 22, 22, 22, 22, 20, 19, 24, 20, 24,
    20, 21, 20, 14, 22, 14, 22, 18, 12, 20, 21, 19, 21, 19, 13, 19, 22, 11, 11, 21, 11, 33, 22, 20, 21, 20, 17, 17,
    15, 22, 18, 24, 20, 19, 18, 15, 8, 15, 24,
)  # fmt: skip
_TEXT_HEIGHT = 12
_BASELINE = _TEXT_HEIGHT - int(_TEXT_HEIGHT * 0.675)  # 4
_ROOM = _TEXT_HEIGHT + _BASELINE + 2 * _GAP  # height of a label's background

Rect = tuple[int, int, int, int]


@dataclass(frozen=True)
class Visualization:
    """What the original's demo would draw. ``drawn_size`` (width, height) is None when it draws nothing.

    ``calls``: in order, rectangles ``{"p1", "p2", "color", "thickness"}`` and labels ``{"text", "org"}`` (baseline
    left), in pixels of the picture resized to width 500. ``generation_colored``: the answer as coloured html, "" if
    no phrase was tagged.
    """

    drawn_size: tuple[int, int] | None
    calls: tuple[dict[str, Any], ...]
    generation_colored: str


NOTHING = Visualization(None, (), "")


def extract_substrings(text: str) -> list[str]:
    """From each ``<p>`` to the last ``}`` of its boxes (both left out). Two tagged groups back to back come out as one,
    and text after the last ``}`` of all is ignored."""
    end = text.rfind("}")
    return re.findall(r"<p>(.*?)\}(?!<)", text if end < 0 else text[: end + 1])


def visualize(image_size: Sequence[int], generation: str) -> Visualization:
    """What the demo draws for ``generation`` on a picture of ``image_size`` = (width, height) pixels.

    Tagged phrases: one colour per distinct phrase, boxes with another number of integers than four are passed over.
    Without a tagged phrase: one box if the whole text has exactly four integers (negative ones count), else nothing.
    Coordinates are not checked against 0..100.
    """
    width, height = image_size
    size = (DRAWN_WIDTH, int(DRAWN_WIDTH / width * height))
    generation = html.unescape(generation)
    tagged = extract_substrings(generation)
    if not tagged:
        box = _four_integers(generation, size)
        return NOTHING if box is None else Visualization(size, (_rectangle(box, 0),), "")
    groups = _entities(tagged, size)
    if not groups:
        return NOTHING
    calls: list[dict[str, Any]] = []
    labels: list[tuple[Rect, str]] = []
    for number, (phrase, boxes) in enumerate(groups.items()):
        for box in boxes:
            calls.append(_rectangle(box, number))
            origin = _place_label(phrase, box, size[1], labels)
            if origin is not None:
                calls.append({"text": f"  {phrase}", "org": origin})
    return Visualization(size, tuple(calls), _coloured(generation))


def mask2bbox(mask: PILImage | None) -> str:
    """Box text around the non-zero part of a mask's first channel, scaled to 100 x 100 without smoothing; the last
    coordinates are inclusive, so at most 99. "" for no mask or an empty one."""
    if mask is None:
        return ""
    import numpy as np
    from PIL import Image

    small = np.asarray(mask.resize((RESOLUTION, RESOLUTION), Image.Resampling.NEAREST))
    ys, xs = np.nonzero(small[:, :, 0])
    if not len(ys):
        return ""
    return "{" + "".join(f"<{int(k)}>" for k in (xs.min(), ys.min(), xs.max(), ys.max())) + "}"


def escape_markdown(text: str) -> str:
    """A backslash before every angle bracket, as the demo shows answers."""
    return re.sub(r"([<>])", r"\\\1", text)


def reverse_escape(text: str) -> str:
    """Takes away one backslash before every angle bracket: the inverse of ``escape_markdown``."""
    return re.sub(r"\\([<>])", r"\1", text)


def identify_message(message: str, mask: PILImage | None) -> str:
    """The demo's [identify] message: a text without exactly four integers gets the mask's box, with no space."""
    needs_box = "[identify]" in message and len(_integers(message)) != 4
    return message + mask2bbox(mask) if needs_box else message


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of x1, y1, x2, y2 with +1 on every side length, float pixels or not. Inverted boxes give
    what the formula gives (negative areas). Raises ``ValueError`` unless both have four numbers, as unpacking does."""
    ax1, ay1, ax2, ay2 = a
    bx1, by1, bx2, by2 = b
    across = max(0, min(ax2, bx2) - max(ax1, bx1) + 1)
    down = max(0, min(ay2, by2) - max(ay1, by1) + 1)
    common = across * down
    return common / ((ax2 - ax1 + 1) * (ay2 - ay1 + 1) + (bx2 - bx1 + 1) * (by2 - by1 + 1) - common)


def box_text_from_pixels(bbox_xywh: Sequence[float], image_size: Sequence[float]) -> str:
    """Training text of a COCO box (left, top, width, height) in a picture (width, height): truncated hundredths."""
    x, y, w, h = bbox_xywh
    corners = zip((x, y, x + w, y + h), (*image_size, *image_size), strict=True)
    return "{" + "".join(f"<{int(value / side * RESOLUTION)}>" for value, side in corners) + "}"


@dataclass(frozen=True)
class RefScore:
    """One scored REC answer. ``accepted``: the original would not ask again. Either ``box`` (pixels) and ``iou`` are
    there, or ``error``: the exception that the original's bare except swallows, which makes a miss."""

    cleaned: str
    accepted: bool
    box: tuple[float, ...] | None
    iou: float | None
    error: str | None

    @property
    def hit(self) -> bool:
        """IoU above 0.5."""
        return self.iou is not None and self.iou > 0.5


def score_refcoco(raw: str, *, width: float, height: float, bbox_xywh: Sequence[float], res: float = 100.0) -> RefScore:
    """The original's score of answer ``raw`` for a target box in a picture of ``width`` x ``height`` pixels.

    Every run of digits in the text counts, wherever it stands: fewer than four is an IndexError, more a ValueError.
    """
    cleaned = raw.replace("<unk>", "").replace(" ", "").strip()
    accepted = re.match(r"\{<\d{1,3}><\d{1,3}><\d{1,3}><\d{1,3}>\}", cleaned) is not None
    numbers = [int(digits) for digits in re.findall(r"\d+", cleaned)]
    if len(numbers) != 4:
        return RefScore(cleaned, accepted, None, None, "IndexError" if len(numbers) < 4 else "ValueError")
    sides = (width, height, width, height)
    box = tuple(number / res * side for number, side in zip(numbers, sides, strict=True))
    x, y, w, h = bbox_xywh
    return RefScore(cleaned, accepted, box, iou(box, (x, y, x + w, y + h)), None)


def refcoco_accuracy(scores: Sequence[RefScore]) -> float:
    """Percentage of hits, one score per item (the original keeps only the last item of each picture; see the docs)."""
    if not scores:
        raise InvalidArgumentError("scores is empty, expected at least one scored answer")
    return 100.0 * sum(score.hit for score in scores) / len(scores)


def _integers(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"-?\d+", text)]


def _four_integers(text: str, size: tuple[int, int]) -> Rect | None:
    numbers = _integers(text)
    if len(numbers) != 4:
        return None
    x1, y1, x2, y2 = (int(number / RESOLUTION * side) for number, side in zip(numbers, size * 2, strict=True))
    return (x1, y1, x2, y2)


def _entities(tagged: list[str], size: tuple[int, int]) -> dict[str, list[Rect]]:
    """Boxes by phrase, in order of first use; a group that does not have exactly one ``</p>`` is passed over."""
    groups: dict[str, list[Rect]] = {}
    for group in tagged:
        phrase, *rest = group.split("</p>")
        if len(rest) != 1:
            continue
        for part in rest[0].split("<delim>"):
            box = _four_integers(part, size)
            if box is not None:
                groups.setdefault(phrase, []).append(box)
    return groups


def _rectangle(box: Rect, number: int) -> dict[str, Any]:
    colour = COLOURS[number % len(COLOURS)]
    return {"p1": box[:2], "p2": box[2:], "color": colour, "thickness": _THICKNESS}


def _text_width(text: str) -> int:
    advance = (_ADVANCE[ord(c) - 32] if " " <= c <= "~" else _ADVANCE[ord("?") - 32] for c in text)
    return round(sum(advance) * 0.5 + 1)  # rounds halves to even, as OpenCV does


def _place_label(phrase: str, box: Rect, height: int, labels: list[tuple[Rect, str]]) -> tuple[int, int] | None:
    """Where the label of ``box`` goes (and notes it in ``labels``), or None if the same label is there already.

    Above the box's corner if there is room, else inside; then moved down past the labels it would cover, at most to
    the lower edge of the picture.
    """
    x, bottom = box[0] - _INSET, box[1] - _INSET
    if bottom < _ROOM:
        x, bottom = box[0] + _INSET_BELOW, box[1] + _INSET_BELOW + _ROOM
    right = x + _text_width(f"  {phrase}")
    top = bottom - _ROOM
    for other, other_phrase in labels:
        if other_phrase == phrase and iou((x, top, right, bottom), other) > 0.95:
            return None
        while _touch((x, top, right, bottom), other):
            top, bottom = top + _ROOM, bottom + _ROOM
            if bottom >= height:
                top, bottom = max(0, height - _ROOM), height
                break
    labels.append(((x, top, right, bottom), phrase))
    return (x, bottom - _BASELINE - _GAP)


def _touch(a: Rect, b: Rect) -> bool:
    return a[2] >= b[0] and a[0] <= b[2] and a[3] >= b[1] and a[1] <= b[3]


def _coloured(generation: str) -> str:
    """Phrases as coloured spans in the order they stand, boxes and ``<delim>`` taken out. A phrase that comes twice
    takes a new colour each time, so text and rectangles can disagree, as in the original."""
    plain = re.sub(r"\{<\d+><\d+><\d+><\d+>\}|<delim>", "", generation)
    colours = itertools.cycle(COLOURS)
    return re.sub(r"<p>(.*?)</p>", lambda m: f'<span style="color:rgb{next(colours)}">{m.group(1)}</span>', plain)
