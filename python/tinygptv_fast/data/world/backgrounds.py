"""Backgrounds as arrays, and the grain over everything."""

from __future__ import annotations

import numpy as np

from ..colours import NOISE_SIDE, noise_pattern
from .scene import Background


def paint_background(background: Background, size: tuple[int, int]) -> np.ndarray:
    """float32 [height, width, 3], 0..255, for ``size`` = (width, height)."""
    width, height = size
    first = np.array(background.first, dtype=np.float32)
    if background.kind in ("plain", "noise"):
        return np.broadcast_to(first, (height, width, 3))
    second = np.array(background.second, dtype=np.float32)
    weight = _ramp if background.kind == "gradient" else _pattern
    return first + weight(background, width, height)[..., None] * (second - first)


def grain(offset: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """float32 [height, width, 3] of the fixed N(0, 1) pattern from ``offset`` (row, column) on, wrapping round."""
    width, height = size
    row, column = (o % NOISE_SIDE for o in offset)
    pattern = noise_pattern()
    if row + height <= NOISE_SIDE and column + width <= NOISE_SIDE:
        return pattern[row : row + height, column : column + width]
    rows, columns = (row + np.arange(height)) % NOISE_SIDE, (column + np.arange(width)) % NOISE_SIDE
    return pattern[rows[:, None], columns[None, :]]


def _axes(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.linspace(0, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    return x, y


def _ramp(background: Background, width: int, height: int) -> np.ndarray:
    x, y = _axes(width, height)
    ramps = (x + 0 * y, y + 0 * x, (x + y) / 2, (x + 1 - y) / 2)
    return ramps[background.direction]


def _pattern(background: Background, width: int, height: int) -> np.ndarray:
    """Bands across or down, diagonal bands, or a chequerboard: 0 and 1."""
    x, y = _axes(width, height)
    y = y * (height / width)  # squares stay square
    bands = [np.floor(v / background.period).astype(np.int32) for v in (x + 0 * y, y + 0 * x, x + y, x + 0 * y)]
    number = bands[background.direction]
    if background.direction == 3:
        number = number + bands[1]
    return (number % 2).astype(np.float32)
