"""Drawn words: the shape of a text, found once from Pillow's bundled font and then stretched into its box.

Letters are rendered one by one, so that the result does not depend on the text layout library Pillow was built with,
and every letter's own column range is known for the label maps.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

EM = 64  # pixels per em of the master picture


@dataclass(frozen=True)
class Lettering:
    """``ink``: "L" picture cropped to the text's ink. ``cells``: (left, right) of each letter, as fractions."""

    ink: Image.Image
    cells: tuple[tuple[float, float], ...]


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(EM)
    assert isinstance(font, ImageFont.FreeTypeFont)  # a size is given, and wheels of Pillow come with FreeType
    return font


@functools.cache
def lettering(text: str) -> Lettering:
    """The text at 64 pixels per em. Do not change the picture: it is shared."""
    font = _font()
    edges = [0.0]
    for letter in text:
        edges.append(edges[-1] + font.getlength(letter))
    ink = Image.new("L", (round(edges[-1]) + EM, 2 * EM), 0)
    pen = ImageDraw.Draw(ink)
    for letter, left in zip(text, edges, strict=False):
        pen.text((EM / 2 + round(left), 1.5 * EM), letter, fill=255, font=font, anchor="ls")
    bounds = ink.getbbox()
    assert bounds is not None  # every letter has ink
    left, _, right, _ = bounds
    fractions = [min(1.0, max(0.0, (edge + EM / 2 - left) / (right - left))) for edge in edges]
    fractions[0], fractions[-1] = 0.0, 1.0
    return Lettering(ink.crop(bounds), tuple(itertools.pairwise(fractions)))


def proportions(text: str) -> tuple[float, float]:
    """Width and height of the text's ink in ems."""
    ink = lettering(text).ink
    return ink.width / EM, ink.height / EM
