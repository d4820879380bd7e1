"""Set prediction: perfect predictions cost least, boxes are measured right, labels follow the drawing."""

from __future__ import annotations

import pytest
import torch

from tinygptv_fast.data.scenes import COLOURS, MAX_OBJECTS, SHAPES, object_map, scene_from_seed
from tinygptv_fast.train.batches import TEACHING, label_pictures
from tinygptv_fast.train.heads import CELLS, ObjectLogits, TeachingHeads, corners, generalised_iou, match, seeing_loss


def test_generalised_iou() -> None:
    a = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert generalised_iou(a, a).item() == pytest.approx(1)
    half = torch.tensor([[0.5, 0.0, 1.5, 1.0]])
    assert generalised_iou(a, half).item() == pytest.approx(1 / 3)  # the hull is covered: no penalty
    away = torch.tensor([[2.0, 0.0, 3.0, 1.0]])
    assert generalised_iou(a, away).item() == pytest.approx(-1 / 3)


def test_labels_follow_the_drawing() -> None:
    grid = 8
    scenes = [scene_from_seed(seed) for seed in range(6)]
    labels = label_pictures(scenes, grid)
    assert labels.cells["shape"].shape == (6, grid * grid, CELLS * CELLS)
    for index, scene in enumerate(scenes):
        drawn = object_map(scene, grid * CELLS)
        for y in range(0, grid * CELLS, 5):
            for x in range(0, grid * CELLS, 3):
                patch, cell = (y // CELLS) * grid + x // CELLS, (y % CELLS) * CELLS + x % CELLS
                number = drawn[y, x]
                item = scene.objects[number - 1] if number else None
                assert labels.cells["shape"][index, patch, cell] == (list(SHAPES).index(item.shape) + 1 if item else 0)
                assert labels.cells["colour"][index, patch, cell] == (
                    list(COLOURS).index(item.colour) + 1 if item else 0
                )
        assert (labels.things["shape"][index] >= 0).sum() == len(scene.objects) == labels.counts[index]


def test_match_finds_the_row_of_each_object() -> None:
    scenes = [scene_from_seed(seed) for seed in range(8)]
    labels = label_pictures(scenes, 8)
    torch.manual_seed(0)
    said = ObjectLogits(
        torch.zeros(8, 16),
        {"shape": torch.zeros(8, 16, len(SHAPES)), "colour": torch.zeros(8, 16, len(COLOURS))},
        torch.rand(8, 16, 4) * 0.1,
    )
    planted = {}
    for b, scene in enumerate(scenes):
        for i, row in enumerate(torch.randperm(16)[: len(scene.objects)].tolist()):
            said.classes["shape"][b, row, labels.things["shape"][b, i]] = 9.0
            said.classes["colour"][b, row, labels.things["colour"][b, i]] = 9.0
            said.box[b, row] = labels.box[b, i]
            planted[b, i] = row
    picture, row, item = match(said, labels)
    assert {(b, i): r for b, r, i in zip(picture.tolist(), row.tolist(), item.tolist(), strict=True)} == planted


def test_loss_is_finite_and_teaches_every_head() -> None:
    torch.manual_seed(0)
    heads = TeachingHeads(TEACHING, 16, 24)
    labels = label_pictures([scene_from_seed(seed) for seed in range(3)], 8)
    loss = seeing_loss(heads, torch.randn(3, 64, 16), torch.randn(3, 16, 24), labels)
    loss.total.backward()
    assert torch.isfinite(loss.total)
    for parameter in heads.parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().sum()) > 0
    assert labels.box.shape == (3, MAX_OBJECTS, 4)


def test_corners() -> None:
    assert corners(torch.tensor([0.5, 0.5, 0.2, 0.4])).tolist() == pytest.approx([0.4, 0.3, 0.6, 0.7])
