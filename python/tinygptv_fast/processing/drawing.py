"""Boxes and their labels on a picture: where a label goes so that it can be read, and in which colours.

Knows Pillow and numbers; knows nothing of answers or models. Two things make a drawing readable on any picture: every
line has a casing in a colour far from its own, and every label stands on a plate of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageColor, ImageDraw, ImageFont

Rect = tuple[float, float, float, float]
_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#800000", "#808000")
_LIGHT, _DARK = "#ffffff", "#000000"
_SMALLEST_LETTERS = 10  # pixels; below it Pillow's font cannot be read


@dataclass(frozen=True)
class Style:
    """Sizes in pixels: of lines, of letters, and of the margin around a label's text."""

    line: int
    letters: int
    margin: int

    @classmethod
    def of(cls, size: tuple[int, int], line_width: int | None = None) -> Style:
        """Sizes that look alike on every picture of (width, height) pixels."""
        side = min(size)
        line = max(1, round(side / 200)) if line_width is None else line_width
        letters = max(_SMALLEST_LETTERS, side // 30)
        return cls(line, letters, max(2, letters // 6))


def draw_boxes(canvas: Image.Image, boxes: Sequence[tuple[Rect, str | None]], style: Style) -> None:
    """Draw (x1, y1, x2, y2 in pixels, label) on an RGB picture, in place. Boxes of one label share a colour.

    All lines come first, so that no line crosses a label.
    """
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(style.letters)
    names = list(dict.fromkeys(label for _, label in boxes))
    colours = {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(names)}
    for corners, label in boxes:
        _draw_rectangle(pen, corners, colours[label], style.line)
    taken: list[Rect] = []
    for corners, label in boxes:
        if label:
            text = _fitting(pen, font, label, canvas.width - 2 * style.margin)
            _draw_label(pen, font, text, corners, colours[label], style, canvas.size, taken)


def place_label(corners: Rect, size: tuple[float, float], room: tuple[int, int], taken: Sequence[Rect]) -> Rect:
    """Where a label of ``size`` (width, height) goes for a box: above it, inside its top, below it, inside its bottom,
    from its left edge or up to its right; the first place that covers no label in ``taken``, else the one that covers
    least. Always inside ``room`` (width, height) unless it is larger than that."""
    x1, y1, x2, y2 = corners
    width, height = size
    best, least = None, float("inf")
    for top in (y1 - height, y1, y2, y2 - height):
        for left in (x1, x2 - width):
            place = _inside(left, top, size, room)
            covered = sum(_common(place, other) for other in taken)
            if place[1] != top:  # moved by the picture's edge: another place may need no move
                covered += 0.5
            if covered < least:
                best, least = place, covered
    assert best is not None  # for the type checker: eight places were tried
    return best


def _draw_rectangle(pen: Any, corners: Rect, colour: str, line: int) -> None:
    x1, y1, x2, y2 = corners
    pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=_far_from(colour), width=1)
    pen.rectangle(corners, outline=colour, width=line)


def _draw_label(
    pen: Any,
    font: Any,
    text: str,
    corners: Rect,
    colour: str,
    style: Style,
    room: tuple[int, int],
    taken: list[Rect],
) -> None:
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    size = (right - left + 2 * style.margin, bottom - top + 2 * style.margin)
    place = place_label(corners, size, room, taken)
    taken.append(place)
    pen.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=colour)
    pen.text((place[0] + style.margin - left, place[1] + style.margin - top), text, fill=_far_from(colour), font=font)


def _fitting(pen: Any, font: Any, label: str, width: float) -> str:
    """``label`` on one line, cut short if it is wider than ``width`` pixels."""
    text = " ".join(label.split())
    if not isinstance(font, ImageFont.FreeTypeFont):  # Pillow without FreeType: its bitmap font knows Latin-1 only
        text = text.encode("latin-1", "replace").decode("latin-1")
    if pen.textlength(text, font=font) <= width:
        return text
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if pen.textlength(text[:middle] + "...", font=font) <= width:
            fits = middle
        else:
            too_long = middle
    return text[: max(fits, 1)] + "..."


def _inside(left: float, top: float, size: tuple[float, float], room: tuple[int, int]) -> Rect:
    left = max(0.0, min(left, room[0] - size[0]))
    top = max(0.0, min(top, room[1] - size[1]))
    return (left, top, left + size[0], top + size[1])


def _common(a: Rect, b: Rect) -> float:
    """Square pixels that both cover."""
    across = min(a[2], b[2]) - max(a[0], b[0])
    down = min(a[3], b[3]) - max(a[1], b[1])
    return across * down if across > 0 and down > 0 else 0.0


def _far_from(colour: str) -> str:
    """Black or white, whichever is easier to tell from ``colour`` (relative luminance of ITU-R BT.709)."""
    red, green, blue = ImageColor.getrgb(colour)[:3]
    return _DARK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 140 else _LIGHT
