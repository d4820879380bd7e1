"""A scene as a picture, at any size."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from ...errors import InvalidArgumentError
from .backgrounds import grain, paint_background
from .lettering import lettering
from .scene import Scene, Thing
from .shapes import paint_shape, texture_ink, texture_mask, to_pixels

MIN_CANVAS, MAX_CANVAS = 32, 2048
_PERIOD = 0.052  # of the picture's side: the finest texture, 3.3 pixels at 64


def canvas(scene: Scene, side: int) -> tuple[int, int]:
    """Width and height of the picture whose *longer* side has ``side`` pixels. Raises ``InvalidArgumentError``."""
    if not MIN_CANVAS <= side <= MAX_CANVAS:
        raise InvalidArgumentError(f"side is {side!r}, expected {MIN_CANVAS}..{MAX_CANVAS} pixels")
    width, height = scene.aspect
    if width >= height:
        return side, round(side * height / width)
    return round(side * width / height), side


def draw(scene: Scene, side: int) -> Image.Image:
    """RGB picture, ``side`` pixels on its longer side. Shapes have hard edges: resizing it smooths them."""
    size = canvas(scene, side)
    pixels = paint_background(scene.background, size)
    image = Image.fromarray(_to_bytes(pixels))
    pen = ImageDraw.Draw(image)
    for thing in scene.things:
        _paint(image, pen, thing, size)
    if scene.noise == 0:
        return image
    noisy = np.asarray(image, dtype=np.float32) + scene.noise * grain(scene.noise_offset, size)
    return Image.fromarray(_to_bytes(noisy))


def _to_bytes(pixels: np.ndarray) -> np.ndarray:
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)


def _paint(image: Image.Image, pen: ImageDraw.ImageDraw, thing: Thing, size: tuple[int, int]) -> None:
    at = to_pixels(thing.box, size)
    if thing.is_text:
        mask = lettering(thing.text).ink.resize((at[2] - at[0], at[3] - at[1]), Image.Resampling.BICUBIC)
        image.paste(thing.rgb, at, mask)
        return
    paint_shape(pen, thing.shape, at, thing.rgb)
    if thing.texture in ("striped", "dotted"):
        period = max(min(at[2] - at[0], at[3] - at[1]) / 4, _PERIOD * (size[0] * size[1]) ** 0.5)
        image.paste(texture_ink(thing.rgb), at, texture_mask(thing.shape, thing.texture, at, period))
