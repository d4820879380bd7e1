"""Pictures of the drawn world as tensors, with their labels, and the vision side at either size."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ...data.randomness import generator
from ...data.world.drawing import draw
from ...data.world.labels import (
    COLOUR_CLASSES,
    LETTER_CLASSES,
    NO_NAME,
    SHAPE_CLASSES,
    SIZE_CLASSES,
    TEXTURE_CLASSES,
    cell_labels,
    set_targets,
)
from ...data.world.lexicon import MAX_THINGS
from ...data.world.sampler import training_scene
from ...data.world.scene import Scene
from ...reference.loss import IGNORE
from ...reference.qformer import QFormer
from ...reference.vision import VisionTower, interpolate_position_embedding
from ..heads import CELLS, Labels, Teaching
from ..pixels import normalise
from .recipe import DemoRecipe

_LETTERS = 6  # longest drawn word
_BLANK = len(LETTER_CLASSES)  # behind the end of a word
_GROUNDS = ("plain", "pattern", "gradient", "noise")
_CANVAS = (1.5, 3.5)  # pictures are drawn larger than the model's input and resized as users' pictures are
_DRAWING = 7  # apart from the path elements that the sampler uses

TEACHING = Teaching(
    cells={
        "shape": len(SHAPE_CLASSES),
        "colour": len(COLOUR_CLASSES),
        "texture": len(TEXTURE_CLASSES),
        "letter": len(LETTER_CLASSES),
    },
    things={
        "shape": len(SHAPE_CLASSES),
        "colour": len(COLOUR_CLASSES),
        "size": len(SIZE_CLASSES),
        "texture": len(TEXTURE_CLASSES),
        **{f"letter{k}": _BLANK + 1 for k in range(_LETTERS)},
    },
    grounds=len(_GROUNDS),
    weights={"size": 0.5, "texture": 0.5, **{f"letter{k}": 0.5 for k in range(_LETTERS)}},
)

#: Of V3: without it a quarter of the letters' cells were right after all of V2.
READING = dataclasses.replace(
    TEACHING, weights={**TEACHING.weights, **{f"letter{k}": 1.0 for k in range(_LETTERS)}}, rare_cells={"letter": 1.0}
)

#: Of V4: the same, their edges from one linear map of a row as well, and more weight on how many there are.
PLACING = dataclasses.replace(READING, edges=101, presence=8.0)

#: Of V5: a second row for every thing.
SPARING = dataclasses.replace(PLACING, spares=True)


def scenes_of(recipe: DemoRecipe, shown: str, step: int, indices: Sequence[int]) -> list[Scene]:
    """Scenes ``indices`` of ``step``, of what stage ``shown`` draws."""
    return [training_scene(recipe.seed, shown, step, index) for index in indices]


def pixels_of(recipe: DemoRecipe, scenes: Sequence[Scene], size: int, *path: int) -> Tensor:
    """Each scene on a canvas of 1.5 to 3.5 times ``size``, resized: f32 [B, 3, size, size]. ``path`` and the position
    decide the canvas."""
    pictures = []
    for index, scene in enumerate(scenes):
        low, high = _CANVAS
        side = round(size * (low + (high - low) * generator(recipe.seed, _DRAWING, *path, index).random()))
        resized = draw(scene, side).resize((size, size), Image.Resampling.BICUBIC)
        pictures.append(np.asarray(resized))
    return normalise(pictures)


def labels_of(scenes: Sequence[Scene], grid: int) -> Labels:
    """Labels of ``scenes`` on a ``grid`` x ``grid`` raster of patches."""
    maps = [cell_labels(scene, grid, CELLS) for scene in scenes]
    targets = [set_targets(scene) for scene in scenes]
    cells = {n: torch.from_numpy(np.stack([getattr(m, n) for m in maps])).long() for n in TEACHING.cells}
    cells = {n: labels.masked_fill(labels == NO_NAME, IGNORE) for n, labels in cells.items()}
    things = {
        n: torch.from_numpy(np.stack([getattr(t, n) for t in targets])) for n in ("shape", "colour", "size", "texture")
    }
    letters = torch.from_numpy(np.stack([_letters(scene) for scene in scenes]))
    things |= {f"letter{k}": letters[:, :, k] for k in range(_LETTERS)}
    box = torch.from_numpy(np.stack([t.box for t in targets]))
    ground = torch.tensor([_GROUNDS.index(scene.background.kind) for scene in scenes])
    return Labels(cells, things, box, tuple(t.count for t in targets), ground)


def things_of(scenes: Sequence[Scene]) -> Labels:
    """``labels_of`` without what is in the patches: for rows alone."""
    whole = labels_of(scenes, 1)
    return Labels({}, whole.things, whole.box, whole.counts, whole.ground)


def _letters(scene: Scene) -> np.ndarray:
    """int64 [MAX_THINGS, 6]: the letters of each drawn text, blank behind its end; IGNORE for shapes."""
    out = np.full((MAX_THINGS, _LETTERS), IGNORE, dtype=np.int64)
    for index, thing in enumerate(scene.things):
        if thing.is_text:
            out[index] = _BLANK
            out[index, : len(thing.text)] = [LETTER_CLASSES.index(letter) for letter in thing.text[:_LETTERS]]
    return out


class Eyes(nn.Module):
    """The vision side, with one position embedding (that of the small size) that is interpolated for the large one.

    So the tower keeps serving both sizes while it learns at the large one, and what is shipped is the interpolated
    embedding, as at the step from 224 to 448 pixels in the original.
    """

    def __init__(self, recipe: DemoRecipe, queries: int | None = None) -> None:
        super().__init__()
        config = recipe.model_config(recipe.small_size, queries)
        assert config.vision is not None and config.qformer is not None
        self.vision = VisionTower(config.vision)
        self.ln_vision = nn.LayerNorm(config.vision.width, eps=config.vision.ln_vision_eps)
        self.qformer = QFormer(config.qformer, config.vision.width)
        nn.init.normal_(self.qformer.query_tokens, std=0.5)
        nn.init.normal_(self.vision.pos_embed, std=0.3)
        nn.init.normal_(self.vision.cls_token, std=0.3)

    def patches(self, pixels: Tensor) -> Tensor:
        """f32 [B, 3, S, S] of either size → [B, I, E], normalised."""
        tower = self.vision
        size = pixels.shape[-1]
        seen = tower.patch_embed(pixels).flatten(2).transpose(1, 2)
        rows = interpolate_position_embedding(tower.pos_embed, seen.shape[1] + 1)
        x = torch.cat([tower.cls_token.expand(len(pixels), 1, -1), seen], dim=1) + rows
        assert size % tower.config.patch_size == 0
        for layer in tower.layers:
            x = layer(x)
        return self.ln_vision(x)

    def forward(self, pixels: Tensor) -> Tensor:
        """f32 [B, 3, S, S] → the Q-Former's rows [B, NQ, Q]."""
        return self.qformer(self.patches(pixels))

    def state_for(self, size: int) -> dict[str, Tensor]:
        """The tensors of a model directory for pictures of ``size`` pixels, under their canonical names."""
        state = {name: tensor.detach().float().cpu() for name, tensor in self.state_dict().items()}
        vision = dataclasses.replace(self.vision.config, image_size=size)
        state["vision.pos_embed"] = interpolate_position_embedding(state["vision.pos_embed"], vision.tokens)
        return state
