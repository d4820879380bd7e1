"""Scenes: the same from the same seed, drawn where they say, never a held-out pair in training."""

from __future__ import annotations

import numpy as np
import pytest

from tinygptv_fast.data.scenes import (
    COLOURS,
    EASY,
    FULL,
    HELD_OUT_PAIRS,
    MAX_OBJECTS,
    OUTLINES,
    SHAPES,
    SceneSpec,
    draw,
    object_map,
    scene_from_seed,
)
from tinygptv_fast.errors import InvalidArgumentError

SEEDS = range(40)


def test_same_seed_same_picture() -> None:
    for seed in SEEDS:
        first, second = scene_from_seed(seed), scene_from_seed(seed)
        assert first == second
        assert draw(first, 128).tobytes() == draw(second, 128).tobytes()
    assert len({scene_from_seed(seed) for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("side", [96, 256])
def test_pixels_lie_in_the_boxes_and_fill_them(side: int) -> None:
    for seed in SEEDS:
        scene = scene_from_seed(seed)
        index = object_map(scene, side)
        for number, item in enumerate(scene.objects, start=1):
            ys, xs = np.nonzero(index == number)
            drawn = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            # Outlines are rounded to pixels, at each end at most one pixel off.
            assert np.abs(drawn - np.array(item.box) * side).max() <= 1.5, (seed, item)


def test_drawn_colours_are_the_named_ones() -> None:
    for seed in SEEDS:
        scene = scene_from_seed(seed)
        pixels, index = np.asarray(draw(scene, 192)).astype(float), object_map(scene, 192)
        for number, item in enumerate(scene.objects, start=1):
            mean = pixels[index == number].mean(0)
            nearest = min(COLOURS, key=lambda name: float(np.abs(mean - COLOURS[name]).sum()))
            assert nearest == item.colour


def test_each_shape_covers_its_own_share_of_its_box() -> None:
    """Area over box area tells the six outlines apart, whatever drew them."""
    expected = {"circle": np.pi / 4, "square": 1.0, "triangle": 0.5, "diamond": 0.5, "cross": 0.5376, "star": 0.36}
    seen: dict[str, list[float]] = {shape: [] for shape in SHAPES}
    for seed in range(80):
        scene = scene_from_seed(seed)
        index = object_map(scene, 256)
        for number, item in enumerate(scene.objects, start=1):
            x1, y1, x2, y2 = (v * 256 for v in item.box)
            seen[item.shape].append(float((index == number).sum()) / ((x2 - x1) * (y2 - y1)))
    for shape, shares in seen.items():
        assert shares
        assert np.mean(shares) == pytest.approx(expected[shape], abs=0.06), shape


def test_outlines_fill_the_unit_square() -> None:
    for points in OUTLINES.values():
        array = np.array(points)
        assert array.min(0).tolist() == [0, 0] and array.max(0).tolist() == [1, 1]


def test_objects_do_not_touch_and_stay_inside() -> None:
    for seed in range(200):
        boxes = [item.box for item in scene_from_seed(seed).objects]
        assert 1 <= len(boxes) <= MAX_OBJECTS
        for i, (x1, y1, x2, y2) in enumerate(boxes):
            assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
            for u1, v1, u2, v2 in boxes[:i]:
                assert x1 > u2 or u1 > x2 or y1 > v2 or v1 > y2


def test_held_out_pairs() -> None:
    def pairs(spec: SceneSpec) -> list[set[tuple[str, str]]]:
        return [{(o.colour, o.shape) for o in scene_from_seed(seed, spec).objects} for seed in range(300)]

    for spec in (FULL, EASY):
        assert not any(found & HELD_OUT_PAIRS for found in pairs(spec))
    assert all(found & HELD_OUT_PAIRS for found in pairs(SceneSpec(pairs="held_out")))
    everything = set().union(*pairs(SceneSpec(pairs="all")))
    assert everything == {(colour, shape) for colour in COLOURS for shape in SHAPES}


@pytest.mark.parametrize("bad", [{"min_objects": 0}, {"max_objects": 5}, {"min_size": 0.5}, {"pairs": "some"}])
def test_bad_spec(bad: dict) -> None:
    with pytest.raises(InvalidArgumentError, match="SceneSpec"):
        SceneSpec(**bad)


@pytest.mark.parametrize("side", [0, 15, 513])
def test_bad_side(side: int) -> None:
    with pytest.raises(InvalidArgumentError, match="side"):
        draw(scene_from_seed(0), side)
