"""Pictures of a few coloured shapes on a light background, drawn with Pillow from a seed.

A ``Scene`` is pure geometry in fractions of the picture's side; ``draw`` turns it into pixels at any size and
``object_map`` into a map of object indices, so that labels for training and checks in tests come from the same
outline as the picture. Knows nothing of questions, tokens or the model.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ..errors import InvalidArgumentError
from .colours import COLOURS, NOISE_SIDE, jitter, noise_pattern
from .outlines import OUTLINES

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross")

#: Never drawn and never named while training; measured separately.
HELD_OUT_PAIRS = frozenset({("pink", "star"), ("black", "diamond"), ("green", "cross"), ("orange", "triangle")})

MAX_OBJECTS = 4
_GAP = 0.02  # of the side, between two objects and to the border


@dataclass(frozen=True)
class SceneObject:
    """One shape. ``box`` is (x1, y1, x2, y2), tight, in fractions 0..1 of the picture's sides."""

    shape: str
    colour: str
    box: tuple[float, float, float, float]
    rgb: tuple[int, int, int]

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def centre(self) -> tuple[float, float]:
        x1, y1, x2, y2 = self.box
        return (x1 + x2) / 2, (y1 + y2) / 2


@dataclass(frozen=True)
class Scene:
    """A background, noise and 1..MAX_OBJECTS objects that do not touch."""

    objects: tuple[SceneObject, ...]
    background: tuple[int, int, int]
    noise: float  # amplitude in grey levels of a fixed pattern
    noise_offset: tuple[int, int]

    def find(self, colour: str | None = None, shape: str | None = None) -> tuple[SceneObject, ...]:
        """The objects that have this colour and this shape (None: any)."""
        return tuple(o for o in self.objects if colour in (None, o.colour) and shape in (None, o.shape))


@dataclass(frozen=True)
class SceneSpec:
    """What ``random_scene`` may draw. Sizes are fractions of the side."""

    min_objects: int = 1
    max_objects: int = MAX_OBJECTS
    min_size: float = 0.20
    max_size: float = 0.42
    pairs: str = "train"  # train: none of HELD_OUT_PAIRS | all | held_out: at least one of them

    def __post_init__(self) -> None:
        if not 1 <= self.min_objects <= self.max_objects <= MAX_OBJECTS:
            raise InvalidArgumentError(
                f"SceneSpec objects are {self.min_objects}..{self.max_objects}, expected within 1..{MAX_OBJECTS}"
            )
        if not 0.05 <= self.min_size <= self.max_size <= 0.6:
            raise InvalidArgumentError(
                f"SceneSpec sizes are {self.min_size}..{self.max_size}, expected within 0.05..0.6"
            )
        if self.pairs not in ("train", "all", "held_out"):
            raise InvalidArgumentError(f"SceneSpec.pairs is {self.pairs!r}, expected 'train', 'all' or 'held_out'")


EASY = SceneSpec(max_objects=3, min_size=0.30, max_size=0.46)
FULL = SceneSpec()


def _paint(pen: ImageDraw.ImageDraw, item: SceneObject, side: int, fill: int | tuple[int, int, int]) -> None:
    x1, y1, x2, y2 = (v * side for v in item.box)
    # Pillow paints the last coordinate as well: one pixel less keeps the outline inside its box.
    x2, y2 = x2 - 1, y2 - 1
    if item.shape == "circle":
        pen.ellipse((x1, y1, x2, y2), fill=fill)
        return
    pen.polygon([(x1 + u * (x2 - x1), y1 + v * (y2 - y1)) for u, v in OUTLINES[item.shape]], fill=fill)


def draw(scene: Scene, side: int) -> Image.Image:
    """RGB picture of ``side`` x ``side`` pixels."""
    if not 16 <= side <= NOISE_SIDE:
        raise InvalidArgumentError(f"side is {side!r}, expected 16..{NOISE_SIDE} pixels")
    image = Image.new("RGB", (side, side), scene.background)
    pen = ImageDraw.Draw(image)
    for item in scene.objects:
        _paint(pen, item, side, item.rgb)
    if scene.noise == 0:
        return image
    oy, ox = (o % (NOISE_SIDE - side + 1) for o in scene.noise_offset)
    pattern = noise_pattern()[oy : oy + side, ox : ox + side]
    noisy = np.asarray(image, dtype=np.float32) + scene.noise * pattern
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def object_map(scene: Scene, side: int) -> np.ndarray:
    """uint8 [side, side]: 0 background, i+1 where object i was drawn. No anti-aliasing."""
    image = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(image)
    for index, item in enumerate(scene.objects):
        _paint(pen, item, side, index + 1)
    return np.asarray(image)


@functools.cache
def _pairs(which: str) -> tuple[tuple[str, str], ...]:
    everything = [(c, s) for c in COLOURS for s in SHAPES]
    if which == "train":
        return tuple(p for p in everything if p not in HELD_OUT_PAIRS)
    if which == "held_out":
        return tuple(p for p in everything if p in HELD_OUT_PAIRS)
    return tuple(everything)


def _place(
    rng: np.random.Generator, spec: SceneSpec, taken: list[tuple[float, float, float, float]]
) -> tuple[float, float, float, float] | None:
    largest = spec.max_size
    for attempt in range(40):
        if attempt % 8 == 7:
            largest = max(spec.min_size, largest * 0.85)
        w = rng.uniform(spec.min_size, largest)
        h = min(spec.max_size, max(spec.min_size, w * rng.uniform(0.85, 1.18)))
        x, y = rng.uniform(_GAP, 1 - _GAP - w), rng.uniform(_GAP, 1 - _GAP - h)
        box = (x, y, x + w, y + h)
        if all(
            box[0] > t[2] + _GAP or t[0] > box[2] + _GAP or box[1] > t[3] + _GAP or t[1] > box[3] + _GAP for t in taken
        ):
            return box
    return None


def random_scene(rng: np.random.Generator, spec: SceneSpec = FULL) -> Scene:
    """A scene drawn from ``rng``. Fewer objects than asked for when they do not fit, never fewer than one."""
    wanted = int(rng.integers(spec.min_objects, spec.max_objects + 1))
    objects: list[SceneObject] = []
    taken: list[tuple[float, float, float, float]] = []
    for index in range(wanted):
        box = _place(rng, spec, taken)
        if box is None:
            break
        pool = _pairs(
            "held_out" if spec.pairs == "held_out" and index == 0 else "train" if spec.pairs == "train" else "all"
        )
        colour, shape = pool[int(rng.integers(len(pool)))]
        if (
            objects and spec.pairs == "train" and rng.random() < 0.25
        ):  # repeats, so that counting has something to count
            colour, shape = _repeat(rng, objects, (colour, shape))
        taken.append(box)
        objects.append(SceneObject(shape, colour, box, jitter(rng, COLOURS[colour])))
    order = rng.permutation(len(objects))
    grey, tint = rng.integers(205, 256), rng.integers(-10, 11, 3)
    background = tuple(int(v) for v in np.clip(grey + tint, 195, 255))
    noise = float(rng.uniform(0, 9)) if rng.random() < 0.6 else 0.0
    offset = (int(rng.integers(NOISE_SIDE)), int(rng.integers(NOISE_SIDE)))
    return Scene(tuple(objects[i] for i in order), background, noise, offset)  # type: ignore[arg-type]


def _repeat(rng: np.random.Generator, objects: list[SceneObject], pair: tuple[str, str]) -> tuple[str, str]:
    """Share the colour or the shape of an earlier object, unless that makes a held-out pair."""
    other = objects[int(rng.integers(len(objects)))]
    shared = (other.colour, pair[1]) if rng.random() < 0.5 else (pair[0], other.shape)
    return pair if shared in HELD_OUT_PAIRS else shared


def scene_from_seed(seed: int, spec: SceneSpec = FULL) -> Scene:
    """The same scene for the same seed on every machine."""
    return random_scene(np.random.Generator(np.random.PCG64(seed)), spec)
