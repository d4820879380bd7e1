"""What has no name: seen while the vision side learns, never asked about; nothing is learnt of the name it lacks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tinygptv_fast.data.colours import COLOURS
from tinygptv_fast.data.outlines import OUTLINES, UNNAMED_OUTLINES
from tinygptv_fast.data.randomness import generator
from tinygptv_fast.data.world.labels import IGNORE, NO_NAME, SHAPE_CLASSES, cell_labels, set_targets
from tinygptv_fast.data.world.lexicon import HELD_OUT_PAIRS, SHAPES
from tinygptv_fast.data.world.made_up import KNOWN
from tinygptv_fast.data.world.sampler import STAGES, training_scene
from tinygptv_fast.data.world.sampling import FULL, scene_from_seed
from tinygptv_fast.data.world.scene import Scene
from tinygptv_fast.data.world.unnamed import UNNAMED, unknown_word, unnamed_colour
from tinygptv_fast.train.demo.pictures import PLACING, labels_of
from tinygptv_fast.train.heads import TeachingHeads, seeing_loss

SCENES = 300


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [training_scene(0, "unnamed", 0, index) for index in range(SCENES)]


def test_a_third_has_no_name_and_no_pair_is_held_out(scenes: list[Scene]) -> None:
    shapes = [thing for scene in scenes for thing in scene.shapes]
    strange = [t for t in shapes if t.colour == UNNAMED or t.shape in UNNAMED_OUTLINES]
    assert 0.28 < len(strange) / len(shapes) < 0.42
    assert {t.shape for t in strange} >= {*UNNAMED_OUTLINES, *SHAPES}
    assert {t.colour for t in strange} >= {UNNAMED, *COLOURS}
    assert not any(t.colour == UNNAMED and t.shape in UNNAMED_OUTLINES for t in shapes)  # one of the two is learnt
    assert {(t.colour, t.shape) for t in shapes}.isdisjoint(HELD_OUT_PAIRS)
    words = {t.text for scene in scenes for t in scene.texts if t.shape == "word"}
    assert len(words - KNOWN) > 20 and len(words & KNOWN) > 60


def test_nothing_else_in_the_world_has_changed() -> None:
    for seed in range(30):
        assert scene_from_seed(seed, FULL) == scene_from_seed(seed, replace(FULL, unnamed=0.0))
    asking = [stage for stage in STAGES.values() if stage.kinds]
    assert all(spec.unnamed == 0 for stage in asking for _, spec in stage.scenes)


@pytest.mark.parametrize("dark", [False, True])
def test_unnamed_colours_are_far_from_every_name(dark: bool) -> None:
    named = np.array(list(COLOURS.values()), dtype=float)
    for seed in range(200):
        rgb = unnamed_colour(generator(seed), dark)
        assert np.linalg.norm(named - np.array(rgb), axis=1).min() >= 75


def test_unknown_words_are_unknown() -> None:
    words = {unknown_word(generator(seed)) for seed in range(500)}
    assert len(words) > 480 and words.isdisjoint(KNOWN)
    assert all(3 <= len(word) <= 6 and word.isalpha() and word.islower() for word in words)


def test_outlines_fill_their_box_and_are_new() -> None:
    assert set(UNNAMED_OUTLINES).isdisjoint(OUTLINES)
    for points in UNNAMED_OUTLINES.values():
        for axis in range(2):
            values = [point[axis] for point in points]
            assert (min(values), max(values)) == (0.0, 1.0)


def test_labels_leave_out_the_name_that_is_missing(scenes: list[Scene]) -> None:
    scene = next(s for s in scenes if any(t.colour == UNNAMED for t in s.things))
    at = next(i for i, t in enumerate(scene.things) if t.colour == UNNAMED)
    targets, cells = set_targets(scene), cell_labels(scene, 16)
    assert targets.colour[at] == IGNORE and targets.shape[at] == SHAPE_CLASSES.index(scene.things[at].shape)
    assert (cells.colour == NO_NAME).any() and (cells.shape[cells.colour == NO_NAME] != 0).all()
    labels = labels_of([scene], 16)
    assert (labels.cells["colour"] == IGNORE).sum() == (cells.colour == NO_NAME).sum()


def test_nothing_is_learnt_of_a_missing_name(scenes: list[Scene]) -> None:
    """A picture whose only thing is without a colour: the loss does not depend on any logit of colours."""
    scene = next(s for s in scenes if len(s.things) == 1 and s.things[0].colour == UNNAMED)
    labels = labels_of([scene], 8)
    torch.manual_seed(0)
    heads = TeachingHeads(PLACING, 16, 16)
    patches, rows = torch.randn(1, 64, 16), torch.randn(1, 4, 16)
    seeing_loss(heads, patches, rows, labels).total.backward()
    grad = heads.names.weight.grad
    assert grad is not None
    start = 1 + len(SHAPE_CLASSES)
    assert grad[start : start + len(COLOURS)].abs().max() == 0
    assert grad[1:start].abs().max() > 0
