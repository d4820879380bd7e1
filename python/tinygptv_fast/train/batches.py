"""Batches of drawn pictures with labels, and of questions as token ids. A batch depends on its seeds alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.questions import Question, ask_mixed
from ..data.scenes import COLOURS, MAX_OBJECTS, SHAPES, Scene, SceneSpec, draw, object_map, random_scene
from ..data.vocabulary import END, NUMBERS, TEMPLATE
from ..processing.image import CLIP_MEAN, CLIP_STD
from ..processing.prompt import render, split_images
from ..processing.tokenizer import Tokenizer
from ..reference.loss import IGNORE

CELLS = 4  # labels per side of a patch
CANVASES = (96, 128, 160, 224)  # pictures are drawn larger than the model's input and resized as users' pictures are
_COLOUR_INDEX = {name: i for i, name in enumerate(COLOURS)}
_SHAPE_INDEX = {name: i for i, name in enumerate(SHAPES)}
_MEAN = torch.tensor(CLIP_MEAN)[:, None, None]
_STD = torch.tensor(CLIP_STD)[:, None, None]


@dataclass(frozen=True)
class Pictures:
    """pixels f32 [B, 3, S, S], normalised as ``processing.image`` does; the scenes they show."""

    pixels: Tensor
    scenes: tuple[Scene, ...]


@dataclass(frozen=True)
class Labels:
    """What is drawn where, for the throw-away heads.

    cell_shape, cell_colour int64 [B, patches, CELLS²], 0 = background, else index + 1. Objects padded to MAX_OBJECTS:
    shape, colour int64 [B, MAX_OBJECTS] (-100 = padding), box f32 [B, MAX_OBJECTS, 4] (cx, cy, w, h in 0..1), counts.
    """

    cell_shape: Tensor
    cell_colour: Tensor
    shape: Tensor
    colour: Tensor
    box: Tensor
    counts: tuple[int, ...]


def normalise(pictures: Sequence[np.ndarray]) -> Tensor:
    """uint8 [S, S, 3] each → f32 [B, 3, S, S], (x/255 - mean)/std."""
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
    return (stacked.contiguous() / 255 - _MEAN) / _STD


def render_scenes(scenes: Sequence[Scene], canvases: Sequence[int], size: int) -> Tensor:
    """Draw each scene on its canvas and resize it bicubically to ``size``: f32 [B, 3, size, size]."""
    resized = [
        np.asarray(draw(scene, canvas).resize((size, size), Image.Resampling.BICUBIC))
        for scene, canvas in zip(scenes, canvases, strict=True)
    ]
    return normalise(resized)


def draw_pictures(rng: np.random.Generator, count: int, spec: SceneSpec, size: int) -> Pictures:
    """``count`` random pictures of ``size`` pixels a side."""
    scenes = tuple(random_scene(rng, spec) for _ in range(count))
    return Pictures(render_scenes(scenes, [CANVASES[i] for i in rng.integers(len(CANVASES), size=count)], size), scenes)


def label_pictures(scenes: Sequence[Scene], grid: int) -> Labels:
    """Labels of ``scenes`` on a ``grid`` x ``grid`` raster of patches."""
    cells = [_cell_labels(scene, grid) for scene in scenes]
    objects = [_object_labels(scene) for scene in scenes]
    return Labels(
        torch.from_numpy(np.stack([c[0] for c in cells])),
        torch.from_numpy(np.stack([c[1] for c in cells])),
        torch.tensor([o[0] for o in objects]),
        torch.tensor([o[1] for o in objects]),
        torch.tensor([o[2] for o in objects], dtype=torch.float32),
        tuple(len(scene.objects) for scene in scenes),
    )


def _cell_labels(scene: Scene, grid: int) -> tuple[np.ndarray, np.ndarray]:
    index = object_map(scene, grid * CELLS)
    per_patch = index.reshape(grid, CELLS, grid, CELLS).transpose(0, 2, 1, 3).reshape(grid * grid, CELLS * CELLS)
    shape = np.array([0, *(_SHAPE_INDEX[o.shape] + 1 for o in scene.objects)], dtype=np.int64)
    colour = np.array([0, *(_COLOUR_INDEX[o.colour] + 1 for o in scene.objects)], dtype=np.int64)
    return shape[per_patch], colour[per_patch]


def _object_labels(scene: Scene) -> tuple[list[int], list[int], list[list[float]]]:
    pad = MAX_OBJECTS - len(scene.objects)
    shapes = [_SHAPE_INDEX[o.shape] for o in scene.objects] + [IGNORE] * pad
    colours = [_COLOUR_INDEX[o.colour] for o in scene.objects] + [IGNORE] * pad
    boxes = [[*o.centre, o.box[2] - o.box[0], o.box[3] - o.box[1]] for o in scene.objects] + [[0.0] * 4] * pad
    return shapes, colours, boxes


class RowEncoder:
    """Questions and answers as ids around the picture's slot, in the template the shipped model uses."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        end = tokenizer.token_id(END)
        assert end is not None
        self.tokenizer = tokenizer
        self.end = end
        self.numbers = [tokenizer.encode(str(n))[0] for n in NUMBERS]  # each is one token of the demo's vocabulary
        self.box_marks = {tokenizer.token_id("{<"), tokenizer.token_id("><")}

    def prompt(self, question: Question, tagged: bool = True) -> tuple[list[int], list[int]]:
        """Ids before and after the picture."""
        text = render(question.prompt, images=1, template=TEMPLATE, task=question.task if tagged else None)
        before, after = split_images(text)
        return self.tokenizer.encode(before), self.tokenizer.encode(after)

    def answer(self, question: Question) -> list[int]:
        """Ids of the answer and the end symbol."""
        return [*self.tokenizer.encode(question.answer), self.end]


@dataclass(frozen=True)
class Rows:
    """Rows of [before, picture, after + answer, padding], without the picture's own positions.

    before int64 [n] (the same for every row), rest int64 [B, T]; labels int64 [B, T]: the token that should *follow*
    each of ``rest``, IGNORE elsewhere; coordinate bool [B, T]: that token is a box coordinate; weight f32 [B, T];
    picture int64 [B].
    """

    before: Tensor
    rest: Tensor
    labels: Tensor
    coordinate: Tensor
    weight: Tensor
    picture: Tensor


def ask_about(rng: np.random.Generator, scenes: Sequence[Scene], each: int) -> list[tuple[int, Question, bool]]:
    """``each`` questions per scene: (index of the scene, question, with its task tag). A quarter of the plain
    questions come without a tag, as users may write them."""
    out = []
    for index, scene in enumerate(scenes):
        for question in ask_mixed(rng, scene, each):
            out.append((index, question, question.task != "vqa" or rng.random() < 0.75))
    return out


def build_rows(encoder: RowEncoder, asked: Sequence[tuple[int, Question, bool]], buckets: int = 4) -> list[Rows]:
    """Rows for ``asked``, sorted by length into ``buckets`` equal parts so that short rows are not padded to long ones.

    A row's tokens weigh 1/sqrt(number of answer tokens) each: one word is not drowned by a caption with four boxes.
    """
    encoded = []
    for index, question, tagged in asked:
        before, after = encoder.prompt(question, tagged)
        encoded.append((index, before, after, encoder.answer(question)))
    encoded.sort(key=lambda row: len(row[2]) + len(row[3]))
    size = -(-len(encoded) // buckets)
    return [_pad(encoder, encoded[i : i + size]) for i in range(0, len(encoded), size)]


def _pad(encoder: RowEncoder, encoded: Sequence[tuple[int, list[int], list[int], list[int]]]) -> Rows:
    T = max(len(after) + len(answer) for _, _, after, answer in encoded) - 1
    rest = np.zeros((len(encoded), T), dtype=np.int64)
    labels = np.full((len(encoded), T), IGNORE, dtype=np.int64)
    coordinate = np.zeros((len(encoded), T), dtype=bool)
    weight = np.zeros((len(encoded), T), dtype=np.float32)
    numbers = set(encoder.numbers)
    for row, (_, _, after, answer) in enumerate(encoded):
        ids = after + answer
        rest[row, : len(ids) - 1] = ids[:-1]
        start = len(after) - 1
        labels[row, start : len(ids) - 1] = answer
        weight[row, start : len(ids) - 1] = len(answer) ** -0.5
        for at in range(start, len(ids) - 1):
            coordinate[row, at] = ids[at] in encoder.box_marks and ids[at + 1] in numbers
    return Rows(
        torch.tensor(encoded[0][1]),
        torch.from_numpy(rest),
        torch.from_numpy(labels),
        torch.from_numpy(coordinate),
        torch.from_numpy(weight),
        torch.tensor([index for index, *_ in encoded]),
    )
