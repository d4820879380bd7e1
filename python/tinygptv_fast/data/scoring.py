"""Boxes in answers, and whether they are the true ones: each must overlap its own by IoU > 0.5.

Reads the box text itself, strictly, so that the score of a model does not depend on the package's lenient parser.
"""

from __future__ import annotations

import re

Quad = tuple[float, float, float, float]
_BOX = re.compile(r"\{<(\d{1,3})><(\d{1,3})><(\d{1,3})><(\d{1,3})>\}")
_PHRASE = re.compile(r"<p>([^<]*)</p>((?:\{[^}]*\}(?:<delim>)?)+)")
IOU_THRESHOLD = 0.5


def read_boxes(text: str) -> list[Quad]:
    """Every well-formed ``{<x1><y1><x2><y2>}`` in order, in 0..100."""
    found = [tuple(float(v) for v in match.groups()) for match in _BOX.finditer(text)]
    return [(b[0], b[1], b[2], b[3]) for b in found]


def iou(a: Quad, b: Quad) -> float:
    """Intersection over union of two boxes; 0 for an empty or inverted one."""
    if a[0] >= a[2] or a[1] >= a[3] or b[0] >= b[2] or b[1] >= b[3]:
        return 0.0
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def same_boxes(given: list[Quad], true: list[Quad]) -> bool:
    """Each given box is used once and overlaps its true box by IoU > 0.5."""
    if len(given) != len(true):
        return False
    left = list(given)
    for box in true:
        best = max(left, key=lambda b: iou(b, box))
        if iou(best, box) <= IOU_THRESHOLD:
            return False
        left.remove(best)
    return True


def grounded(text: str) -> dict[str, list[Quad]]:
    """The boxes of each ``<p>phrase</p>{...}<delim>{...}``; boxes of a phrase that comes twice are put together."""
    out: dict[str, list[Quad]] = {}
    for phrase, boxes in _PHRASE.findall(text):
        out.setdefault(phrase.strip(), []).extend(read_boxes(boxes))
    return out
