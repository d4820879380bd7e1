"""The colours that have a name, and the fixed noise that pictures are grained with."""

from __future__ import annotations

import functools

import numpy as np

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (214, 38, 38),
    "orange": (244, 140, 24),
    "yellow": (240, 214, 32),
    "green": (38, 152, 58),
    "blue": (38, 82, 206),
    "purple": (128, 44, 160),
    "pink": (246, 130, 188),
    "black": (28, 28, 32),
}

NOISE_SIDE = 512


def luma(rgb: RGB) -> float:
    """Brightness 0..255 (ITU-R BT.601)."""
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


def jitter(rng: np.random.Generator, rgb: RGB) -> RGB:
    """``rgb`` shaken by up to 12 levels a channel."""
    r, g, b = np.clip(np.array(rgb) + rng.integers(-12, 13, 3), 0, 255)
    return int(r), int(g), int(b)


@functools.cache
def noise_pattern() -> np.ndarray:
    """[512, 512, 3] float32 N(0, 1), the same on every machine."""
    return np.random.Generator(np.random.PCG64(7)).standard_normal((NOISE_SIDE, NOISE_SIDE, 3), dtype=np.float32)
