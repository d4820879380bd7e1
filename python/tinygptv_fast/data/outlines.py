"""Outlines of shapes as polygons that fill the unit square, so that an outline's box is exactly its object's box."""

from __future__ import annotations

import math

Points = tuple[tuple[float, float], ...]


def fit(points: list[tuple[float, float]]) -> Points:
    """Stretch an outline so that it fills the unit square: its box is then exactly the object's box."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    width, height = max(xs) - min(xs), max(ys) - min(ys)
    return tuple(((x - min(xs)) / width, (y - min(ys)) / height) for x, y in points)


def _star() -> list[tuple[float, float]]:
    radii = (1.0, 0.42)
    angles = [(-90 + 36 * i) * math.pi / 180 for i in range(10)]
    return [(radii[i % 2] * math.cos(a), radii[i % 2] * math.sin(a)) for i, a in enumerate(angles)]


def _cross(arm: float = 0.32) -> list[tuple[float, float]]:
    a, b = (1 - arm) / 2, (1 + arm) / 2
    return [(a, 0), (b, 0), (b, a), (1, a), (1, b), (b, b), (b, 1), (a, 1), (a, b), (0, b), (0, a), (a, a)]


def _heart(steps: int = 32) -> list[tuple[float, float]]:
    """The sextic heart curve x = 16 sin³t, y = -(13 cos t - 5 cos 2t - 2 cos 3t - cos 4t)."""
    angles = [2 * math.pi * i / steps for i in range(steps)]
    return [
        (
            16 * math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)),
        )
        for t in angles
    ]


OUTLINES: dict[str, Points] = {
    "square": fit([(0, 0), (1, 0), (1, 1), (0, 1)]),
    "triangle": fit([(0.5, 0), (1, 1), (0, 1)]),
    "diamond": fit([(0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)]),
    "star": fit(_star()),
    "cross": fit(_cross()),
    "heart": fit(_heart()),
}

#: Outlines without a name in the drawn world. None is one of its shapes, stretched.
UNNAMED_OUTLINES: dict[str, Points] = {
    "ell": fit([(0, 0), (0.4, 0), (0.4, 0.6), (1, 0.6), (1, 1), (0, 1)]),
    "tee": fit([(0, 0), (1, 0), (1, 0.36), (0.68, 0.36), (0.68, 1), (0.32, 1), (0.32, 0.36), (0, 0.36)]),
    "hourglass": fit([(0, 0), (1, 0), (0.6, 0.5), (1, 1), (0, 1), (0.4, 0.5)]),
    "vee": fit([(0, 0), (0.5, 0.45), (1, 0), (1, 0.55), (0.5, 1), (0, 0.55)]),
    "zigzag": fit([(0, 0), (1, 0), (0.55, 0.62), (1, 0.62), (1, 1), (0, 1), (0.45, 0.38), (0, 0.38)]),
    "parallelogram": fit([(0.45, 0), (1, 0), (0.55, 1), (0, 1)]),
    "trapezoid": fit([(0.3, 0), (0.7, 0), (1, 1), (0, 1)]),
    "aitch": fit(
        [(0, 0), (0.34, 0), (0.34, 0.34), (0.66, 0.34), (0.66, 0), (1, 0)]
        + [(1, 1), (0.66, 1), (0.66, 0.66), (0.34, 0.66), (0.34, 1), (0, 1)]
    ),
    "half": fit([(math.cos(math.pi * i / 16), -math.sin(math.pi * i / 16)) for i in range(17)]),
}
