"""What is drawn where, for the throw-away heads that teach the vision side: numpy arrays, no tensors.

Everything comes from ``shapes.paint_shape`` and the boxes, as the pixels do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ..colours import COLOURS
from .lettering import lettering
from .lexicon import MAX_THINGS, SHAPES, SIZES, TEXT_SORTS, TEXTURES
from .scene import Scene, Thing
from .shapes import paint_shape, to_pixels

#: Class k of a label map is name k - 1; 0 is background, and for textures and letters also "does not apply".
SHAPE_CLASSES = (*SHAPES, *TEXT_SORTS)
COLOUR_CLASSES = tuple(COLOURS)
TEXTURE_CLASSES = TEXTURES
SIZE_CLASSES = tuple(SIZES)
LETTER_CLASSES = tuple("abcdefghijklmnopqrstuvwxyz0123456789")
IGNORE = -100  # padding and classes that do not apply: torch's ignore_index
NO_NAME = 255  # in label maps: something is there that has no name, so nothing is to be learnt

_SHAPE, _COLOUR, _TEXTURE, _SIZE, _LETTER = (
    {name: i for i, name in enumerate(names)}
    for names in (SHAPE_CLASSES, COLOUR_CLASSES, TEXTURE_CLASSES, SIZE_CLASSES, LETTER_CLASSES)
)


@dataclass(frozen=True)
class LabelMaps:
    """uint8 arrays of one shape, [height, width] or [patches, cells²]; 0 = nothing, NO_NAME, else class + 1."""

    shape: np.ndarray
    colour: np.ndarray
    texture: np.ndarray
    letter: np.ndarray


@dataclass(frozen=True)
class SetTargets:
    """The things of a scene for set prediction, padded to MAX_THINGS.

    shape, colour, size, texture int64 [MAX_THINGS], IGNORE in padding and where it does not apply (a word's texture);
    box float32 [MAX_THINGS, 4] as (cx, cy, width, height) in 0..1, zeros in padding; ``count`` things.
    """

    shape: np.ndarray
    colour: np.ndarray
    size: np.ndarray
    texture: np.ndarray
    box: np.ndarray
    count: int


def _paint(pen: ImageDraw.ImageDraw, thing: Thing, size: tuple[int, int], fill: int) -> None:
    at = to_pixels(thing.box, size)
    if thing.is_text:
        # Strokes are thinner than a cell: the label of a text is its whole box.
        pen.rectangle((at[0], at[1], at[2] - 1, at[3] - 1), fill=fill)
    else:
        paint_shape(pen, thing.shape, at, fill)


def thing_map(scene: Scene, size: tuple[int, int]) -> np.ndarray:
    """uint8 [height, width] for ``size`` = (width, height): 0 background, i+1 where thing i is seen."""
    image = Image.new("L", size, 0)
    pen = ImageDraw.Draw(image)
    for index, thing in enumerate(scene.things):
        _paint(pen, thing, size, index + 1)
    return np.asarray(image)


def visible_fractions(things: tuple[Thing, ...], side: int = 48) -> list[float]:
    """Of each thing, the share of its pixels on a ``side`` x ``side`` raster that no later thing covers."""
    image = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(image)
    whole = []
    for index, thing in enumerate(things):
        alone = Image.new("L", (side, side), 0)
        _paint(ImageDraw.Draw(alone), thing, (side, side), 1)
        whole.append(alone.tobytes().count(1))
        _paint(pen, thing, (side, side), index + 1)
    seen = image.tobytes()
    return [seen.count(index + 1) / max(1, area) for index, area in enumerate(whole)]


def label_maps(scene: Scene, size: tuple[int, int]) -> LabelMaps:
    """Labels per pixel of a ``size`` = (width, height) raster, stretched over the picture as the model's input is."""
    index = thing_map(scene, size)
    names = scene.things
    shape = np.array([0, *(_class(_SHAPE, t.shape, NO_NAME) for t in names)], dtype=np.uint8)
    colour = np.array([0, *(_class(_COLOUR, t.colour, NO_NAME) for t in names)], dtype=np.uint8)
    texture = np.array([0, *(_TEXTURE[t.texture] + 1 if t.texture else 0 for t in names)], dtype=np.uint8)
    return LabelMaps(shape[index], colour[index], texture[index], _letter_map(scene, size))


def _class(classes: dict[str, int], name: str, otherwise: int) -> int:
    """Class + 1 of a name, ``otherwise`` for what has none."""
    return classes[name] + 1 if name in classes else otherwise


def _letter_map(scene: Scene, size: tuple[int, int]) -> np.ndarray:
    image = Image.new("L", size, 0)
    pen = ImageDraw.Draw(image)
    for thing in scene.texts:  # nothing overlaps a text
        x1, y1, x2, y2 = to_pixels(thing.box, size)
        for letter, (left, right) in zip(thing.text, lettering(thing.text).cells, strict=True):
            a, b = x1 + round(left * (x2 - x1)), x1 + round(right * (x2 - x1))
            if b > a:
                pen.rectangle((a, y1, b - 1, y2 - 1), fill=_LETTER[letter] + 1)
    return np.asarray(image)


def cell_labels(scene: Scene, grid: int, cells: int = 4) -> LabelMaps:
    """``cells`` x ``cells`` labels for each patch of a ``grid`` x ``grid`` raster, row-major: [grid², cells²] each."""
    side = grid * cells
    maps = label_maps(scene, (side, side))

    def by_patch(array: np.ndarray) -> np.ndarray:
        split = array.reshape(grid, cells, grid, cells).transpose(0, 2, 1, 3)
        return split.reshape(grid * grid, cells * cells)

    return LabelMaps(by_patch(maps.shape), by_patch(maps.colour), by_patch(maps.texture), by_patch(maps.letter))


def set_targets(scene: Scene) -> SetTargets:
    """Targets for set prediction, in painting order."""
    classes = np.full((4, MAX_THINGS), IGNORE, dtype=np.int64)
    box = np.zeros((MAX_THINGS, 4), dtype=np.float32)
    for i, thing in enumerate(scene.things):
        classes[0, i], classes[1, i] = _SHAPE.get(thing.shape, IGNORE), _COLOUR.get(thing.colour, IGNORE)
        if thing.size is not None and thing.texture is not None:
            classes[2, i], classes[3, i] = _SIZE[thing.size], _TEXTURE[thing.texture]
        box[i] = (*thing.centre, thing.box[2] - thing.box[0], thing.box[3] - thing.box[1])
    return SetTargets(classes[0], classes[1], classes[2], classes[3], box, len(scene.things))
