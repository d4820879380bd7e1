"""Painting one shape with Pillow. Pixels and label maps both come from here, so that they have the same outline."""

from __future__ import annotations

from PIL import Image, ImageDraw

from ..colours import RGB, luma
from ..outlines import OUTLINES, UNNAMED_OUTLINES
from .scene import Box

Pixels = tuple[int, int, int, int]  # x1, y1, x2, y2; x2 and y2 are the first column and row outside
_RING_BAND = 0.24  # of the shorter side


def to_pixels(box: Box, size: tuple[int, int]) -> Pixels:
    """``box`` in fractions as whole pixels of a picture of ``size`` (width, height); never less than 2 x 2."""
    width, height = size
    x1, y1 = round(box[0] * width), round(box[1] * height)
    return x1, y1, max(x1 + 2, round(box[2] * width)), max(y1 + 2, round(box[3] * height))


def paint_shape(pen: ImageDraw.ImageDraw, shape: str, at: Pixels, fill: int | RGB) -> None:
    """Fill the outline of ``shape`` so that it touches all four sides of ``at``."""
    x1, y1, x2, y2 = at[0], at[1], at[2] - 1, at[3] - 1  # Pillow paints the last coordinate as well
    if shape == "circle":
        pen.ellipse((x1, y1, x2, y2), fill=fill)
    elif shape == "ring":
        band = max(1, round(_RING_BAND * (min(x2 - x1, y2 - y1) + 1)))
        pen.ellipse((x1, y1, x2, y2), outline=fill, width=band)
    else:
        outline = OUTLINES.get(shape) or UNNAMED_OUTLINES[shape]
        pen.polygon([(x1 + u * (x2 - x1), y1 + v * (y2 - y1)) for u, v in outline], fill=fill)


def texture_ink(rgb: RGB) -> RGB:
    """The second colour of a texture: nearly white on dark colours, nearly black on light ones."""
    target, weight = (0, 0.72) if luma(rgb) > 140 else (255, 0.82)
    r, g, b = (round(v + weight * (target - v)) for v in rgb)
    return r, g, b


def texture_mask(shape: str, texture: str, at: Pixels, period: float) -> Image.Image:
    """ "L" picture of the size of ``at``: 255 where the texture's ink goes. ``period`` in pixels.

    A rim of the shape's own colour stays, so that the outline is whole on any background.
    """
    width, height = at[2] - at[0], at[3] - at[1]
    ink = Image.new("L", (width, height), 0)
    pen = ImageDraw.Draw(ink)
    if texture == "striped":
        step, thick = period, max(1, round(0.42 * period))
        start = -float(height)
        while start < width:
            pen.line((start, height, start + height, 0), fill=255, width=thick)
            start += step * 1.414  # lines at 45 degrees: their distance across is the period
    else:
        _paint_dots(pen, width, height, period)
    rim = max(1, round(period / 5))
    inner = Image.new("L", (width, height), 0)
    paint_shape(ImageDraw.Draw(inner), shape, (rim, rim, max(rim + 2, width - rim), max(rim + 2, height - rim)), 255)
    ink.paste(0, mask=inner.point(_INVERT))
    return ink


_INVERT = [255 - v for v in range(256)]


def _paint_dots(pen: ImageDraw.ImageDraw, width: int, height: int, period: float) -> None:
    """Staggered rows around the middle, so that thin shapes have a dot on their axis."""
    radius = max(0.6, 0.29 * period)
    reach = int(max(width, height) / period) // 2 + 1
    for row in range(-reach, reach + 1):
        y = (height - 1) / 2 + row * period * 0.9
        for column in range(-reach, reach + 1):
            x = (width - 1) / 2 + (column + (0.5 if row % 2 else 0.0)) * period
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
