"""Scenes from a seed: how many things, which, where, on what. A scene is a pure function of (seed, spec)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import InvalidArgumentError
from ..colours import COLOURS, NOISE_SIDE, RGB, jitter, luma
from ..randomness import generator, pick
from .labels import visible_fractions
from .lettering import proportions
from .lexicon import (
    HELD_OUT_PAIRS,
    HELD_OUT_WORDS,
    MAX_SIDE,
    MAX_THINGS,
    MIN_SIDE,
    NUMBERS,
    PAIRS,
    SHAPES,
    SIZES,
    TEXTURES,
    TRAIN_PAIRS,
    TRAIN_WORDS,
)
from .scene import Background, Box, Scene, Thing
from .unnamed import UNNAMED, unknown_word, unnamed_colour, unnamed_outline

#: width : height, 3:4 to 16:9. Square ones come up more often, since that is what the model's input is.
ASPECTS = ((1, 1), (1, 1), (3, 4), (4, 5), (5, 4), (4, 3), (3, 2), (16, 10), (16, 9))
MIN_VISIBLE = 0.65  # share of each thing that must stay uncovered
MAX_TEXT_WIDTH = 0.62
_MAX_OVERLAP = 0.35  # of the smaller of two boxes
_GAP = 0.02
_TRIES = 40
_DARK_LUMA, _LIGHT_LUMA, _TEXT_CONTRAST = 53, 230, 50
_EM = {"word": (0.150, 0.205), "number": (0.165, 0.250)}  # letter size as a fraction of √(width x height)


@dataclass(frozen=True)
class SceneSpec:
    """What ``random_scene`` may draw.

    ``pairs`` and ``words``: "train" takes none of the held-out ones, "held_out" at least one of them first, "all" any.
    ``texts``: how likely a scene holds drawn text. ``overlap``: how likely shapes may overlap. ``empty``: no things.
    ``unnamed``: how likely a shape has a colour or an outline without a name, and a word no meaning.
    """

    min_things: int = 1
    max_things: int = MAX_THINGS
    sizes: tuple[str, ...] = tuple(SIZES)
    texts: float = 0.0
    overlap: float = 0.3
    empty: bool = False
    pairs: str = "train"
    words: str = "train"
    unnamed: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.min_things <= self.max_things <= MAX_THINGS:
            raise InvalidArgumentError(
                f"SceneSpec things are {self.min_things}..{self.max_things}, expected within 1..{MAX_THINGS}"
            )
        if not self.sizes or set(self.sizes) - set(SIZES):
            raise InvalidArgumentError(f"SceneSpec.sizes is {self.sizes!r}, expected some of {', '.join(SIZES)}")
        for name, share in (("texts", self.texts), ("overlap", self.overlap), ("unnamed", self.unnamed)):
            if not 0 <= share <= 1:
                raise InvalidArgumentError(f"SceneSpec.{name} is {share!r}, expected 0..1")
        for name, value in (("pairs", self.pairs), ("words", self.words)):
            if value not in ("train", "held_out", "all"):
                raise InvalidArgumentError(f"SceneSpec.{name} is {value!r}, expected 'train', 'held_out' or 'all'")


EASY = SceneSpec(max_things=3, sizes=("medium", "large"), overlap=0.0)
FULL = SceneSpec()
CROWDED = SceneSpec(min_things=4)
PACKED = SceneSpec(min_things=5)
TEXT = SceneSpec(max_things=5, texts=1.0)
EMPTY = SceneSpec(empty=True)


def scene_from_seed(seed: int, spec: SceneSpec = FULL) -> Scene:
    """The same scene for the same seed (>= 0) and spec on every machine."""
    return random_scene(generator(seed), spec)


def random_scene(rng: np.random.Generator, spec: SceneSpec = FULL) -> Scene:
    """A scene drawn from ``rng``. Fewer things than asked for when they do not fit, never fewer than one."""
    aspect = pick(rng, ASPECTS)
    offset = (int(rng.random() * NOISE_SIDE), int(rng.random() * NOISE_SIDE))
    if spec.empty:
        background, noise = _empty_background(rng)
        return Scene((), aspect, background, noise, offset)
    dark = rng.random() < 0.3
    background = background_for(rng, dark)
    noise = 9 * rng.random() if rng.random() < 0.6 else 0.0
    things = _things(rng, spec, aspect, dark)
    return Scene(things, aspect, background, noise, offset)


# --- things -----------------------------------------------------------------------------------------------------------
def _things(rng: np.random.Generator, spec: SceneSpec, aspect: tuple[int, int], dark: bool) -> tuple[Thing, ...]:
    wanted = spec.min_things + int(rng.random() * (spec.max_things - spec.min_things + 1))
    overlap = rng.random() < spec.overlap
    repeat = pick(rng, (0.0, 0.3, 0.85))  # of a scene: so that counting has something to count
    texts = 0
    if rng.random() < spec.texts:
        texts = 1 if wanted == 1 or rng.random() < 0.6 else 2
    things: list[Thing] = []
    for index in range(wanted):
        # Text is placed first: it needs the most room, and nothing may cover it.
        thing = (
            _text(rng, spec, aspect, dark, things, first=index == 0)
            if index < texts
            else _shape(rng, spec, aspect, dark, things, overlap, repeat)
        )
        if thing is None:
            break
        things.append(thing)
    if not things:
        return _things(rng, spec, aspect, dark)
    order = rng.permutation(len(things)) if not overlap else range(len(things))
    return tuple(things[i] for i in order)


def _shape(
    rng: np.random.Generator,
    spec: SceneSpec,
    aspect: tuple[int, int],
    dark: bool,
    others: list[Thing],
    overlap: bool,
    repeat: float,
) -> Thing | None:
    colour, shape = _pair(rng, spec, dark, others, repeat)
    rgb = jitter(rng, COLOURS[colour])
    if spec.unnamed and rng.random() < spec.unnamed:
        if rng.random() < 0.5:
            colour, rgb = UNNAMED, unnamed_colour(rng, dark)
        else:
            shape = unnamed_outline(rng)
    texture = pick(rng, TEXTURES)
    size = pick(rng, spec.sizes)
    smallest = next(iter(SIZES))
    for attempt in range(_TRIES):
        if attempt % 10 == 9 and smallest in spec.sizes:
            size = smallest
        box = _shape_box(rng, size, aspect)
        if not overlap:
            if not any(touch(box, t.box) for t in others):
                return Thing(shape, colour, box, rgb, size, texture)
            continue
        thing = Thing(shape, colour, box, rgb, size, texture)
        if _may_overlap(thing, others):
            return thing
    return None


def _pair(rng: np.random.Generator, spec: SceneSpec, dark: bool, others: list[Thing], repeat: float) -> tuple[str, str]:
    """A colour and a shape; like an earlier one with probability ``repeat``. Nothing black on a dark ground."""
    shapes = [t for t in others if t.shape in SHAPES and t.colour in COLOURS]
    if spec.pairs == "held_out" and not shapes:
        return pick(rng, [p for p in sorted(HELD_OUT_PAIRS) if not (dark and p[0] == "black")])
    allowed = TRAIN_PAIRS if spec.pairs == "train" else PAIRS
    while True:
        colour, shape = pick(rng, allowed)
        if shapes and rng.random() < repeat:
            other = pick(rng, shapes)
            way = rng.random()
            colour = other.colour if way < 0.6 else colour
            shape = other.shape if way > 0.4 else shape
        if not (dark and colour == "black") and (spec.pairs != "train" or (colour, shape) not in HELD_OUT_PAIRS):
            return colour, shape


def shape_extents(rng: np.random.Generator, size: str, aspect: tuple[int, int]) -> tuple[float, float]:
    """Width and height, in fractions, of a shape of this size word: nearly as wide as high where the sides allow."""
    low, high = SIZES[size]
    extent = low + (high - low) * rng.random()
    pixels = 0.87 + 0.28 * rng.random()  # width over height as drawn
    ratio = pixels * aspect[1] / aspect[0]
    most = min(MAX_SIDE / extent, extent / MIN_SIDE) ** 2
    ratio = min(most, max(1 / most, ratio))
    return extent * ratio**0.5, extent / ratio**0.5


def _shape_box(rng: np.random.Generator, size: str, aspect: tuple[int, int]) -> Box:
    return place(rng, *shape_extents(rng, size, aspect))


def place(rng: np.random.Generator, width: float, height: float) -> Box:
    """A box of this size anywhere inside the picture, a little away from its border."""
    x = _GAP + (1 - 2 * _GAP - width) * rng.random()
    y = _GAP + (1 - 2 * _GAP - height) * rng.random()
    return x, y, x + width, y + height


def text_extents(rng: np.random.Generator, sort: str, text: str, aspect: tuple[int, int]) -> tuple[float, float]:
    """Width and height, in fractions, of the ink of ``text``, at most MAX_TEXT_WIDTH wide."""
    low, high = _EM[sort]
    em = low + (high - low) * rng.random()
    wide, tall = proportions(text)
    stretch = (aspect[0] / aspect[1]) ** 0.5
    em = min(em, MAX_TEXT_WIDTH * stretch / wide)
    return wide * em / stretch, tall * em * stretch


def _text(
    rng: np.random.Generator, spec: SceneSpec, aspect: tuple[int, int], dark: bool, others: list[Thing], first: bool
) -> Thing | None:
    sort = "number" if rng.random() < 0.35 and not (first and spec.words == "held_out") else "word"
    taken = {t.text for t in others}
    pool = NUMBERS if sort == "number" else _words(spec, first)
    text = pick(rng, [w for w in pool if w not in taken])
    if spec.unnamed and sort == "word" and rng.random() < spec.unnamed:
        text = unknown_word(rng)
    colour = pick(rng, text_colours(dark))
    rgb = jitter(rng, COLOURS[colour])
    for _ in range(_TRIES):
        box = place(rng, *text_extents(rng, sort, text, aspect))
        if not any(touch(box, t.box) for t in others):
            return Thing(sort, colour, box, rgb, text=text)
    return None


def text_colours(dark: bool) -> tuple[str, ...]:
    """The colours that thin letters can be read in on a dark or a light ground."""
    ground = _DARK_LUMA if dark else _LIGHT_LUMA
    return tuple(name for name, rgb in COLOURS.items() if abs(luma(rgb) - ground) >= _TEXT_CONTRAST)


def _words(spec: SceneSpec, first: bool) -> tuple[str, ...]:
    if spec.words == "train":
        return TRAIN_WORDS
    return HELD_OUT_WORDS if spec.words == "held_out" and first else (*TRAIN_WORDS, *HELD_OUT_WORDS)


def touch(a: Box, b: Box) -> bool:
    """Whether two boxes overlap or come closer than a small gap."""
    return not (a[0] > b[2] + _GAP or b[0] > a[2] + _GAP or a[1] > b[3] + _GAP or b[1] > a[3] + _GAP)


def _common(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def _may_overlap(thing: Thing, others: list[Thing]) -> bool:
    if any(touch(thing.box, t.box) for t in others if t.is_text):
        return False
    shares = [_common(thing.box, t.box) for t in others]
    if max(shares, default=0.0) > _MAX_OVERLAP:
        return False
    if not any(shares):
        return True
    # The same name on both would make one blob of two things.
    if any(share and t.colour == thing.colour for share, t in zip(shares, others, strict=True)):
        return False
    return min(visible_fractions((*others, thing))) >= MIN_VISIBLE


# --- backgrounds ------------------------------------------------------------------------------------------------------
def _shade(rng: np.random.Generator, low: int, high: int, tint: int) -> RGB:
    grey = low + (high - low) * rng.random()
    r, g, b = (int(min(255.0, max(0.0, grey + tint * (2 * rng.random() - 1)))) for _ in range(3))
    return r, g, b


def background_for(rng: np.random.Generator, dark: bool) -> Background:
    """Mostly plain; gradients stay light or dark all over, patterns differ by a few levels only."""
    low, high = (28, 78) if dark else (205, 255)
    first = _shade(rng, low, high, 10)
    kind = pick(rng, ("plain", "plain", "gradient", "pattern"))
    if kind == "plain":
        return Background("plain", first, first)
    direction = int(4 * rng.random())
    if kind == "gradient":
        return Background("gradient", first, _shade(rng, low - 12 if dark else 185, high + 10, 14), direction)
    step = (6 + 8 * rng.random()) * (1 if dark else -1)
    r, g, b = (int(min(255, max(0, v + step))) for v in first)
    return Background("pattern", first, (r, g, b), direction, 0.06 + 0.12 * rng.random())


def _empty_background(rng: np.random.Generator) -> tuple[Background, float]:
    """Nothing drawn: a ground as other pictures have, a strong gradient, or noise alone; and its grain."""
    kind = pick(rng, ("ground", "gradient", "noise"))
    if kind == "noise":
        first = _shade(rng, 70, 185, 30)
        return Background("noise", first, first), 30 + 40 * rng.random()
    grain = 9 * rng.random() if rng.random() < 0.6 else 0.0
    if kind == "gradient":
        first, second = _shade(rng, 0, 110, 60), _shade(rng, 145, 255, 60)
        if rng.random() < 0.5:
            first, second = second, first
        return Background("gradient", first, second, int(4 * rng.random())), grain
    background = background_for(rng, rng.random() < 0.3)
    while background.kind == "gradient":
        background = background_for(rng, rng.random() < 0.3)
    return background, grain
