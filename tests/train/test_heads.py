"""Set prediction: perfect predictions cost least, boxes are measured right."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from tinygptv_fast.data.world.labels import COLOUR_CLASSES, SHAPE_CLASSES
from tinygptv_fast.data.world.lexicon import MAX_THINGS
from tinygptv_fast.data.world.sampling import scene_from_seed
from tinygptv_fast.train.demo.pictures import PLACING, SPARING, TEACHING, labels_of
from tinygptv_fast.train.heads import (
    ObjectLogits,
    TeachingHeads,
    corners,
    edge_loss,
    generalised_iou,
    match,
    match_spares,
    seeing_loss,
)


def test_generalised_iou() -> None:
    a = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert generalised_iou(a, a).item() == pytest.approx(1)
    half = torch.tensor([[0.5, 0.0, 1.5, 1.0]])
    assert generalised_iou(a, half).item() == pytest.approx(1 / 3)  # the hull is covered: no penalty
    away = torch.tensor([[2.0, 0.0, 3.0, 1.0]])
    assert generalised_iou(a, away).item() == pytest.approx(-1 / 3)


def test_match_finds_the_row_of_each_object() -> None:
    scenes = [scene_from_seed(seed) for seed in range(8)]
    labels = labels_of(scenes, 8)
    torch.manual_seed(0)
    said = ObjectLogits(
        torch.zeros(8, 16),
        {"shape": torch.zeros(8, 16, len(SHAPE_CLASSES)), "colour": torch.zeros(8, 16, len(COLOUR_CLASSES))},
        torch.rand(8, 16, 4) * 0.1,
    )
    planted = {}
    for b, scene in enumerate(scenes):
        for i, row in enumerate(torch.randperm(16)[: len(scene.things)].tolist()):
            said.classes["shape"][b, row, labels.things["shape"][b, i]] = 9.0
            said.classes["colour"][b, row, labels.things["colour"][b, i]] = 9.0
            said.box[b, row] = labels.box[b, i]
            planted[b, i] = row
    picture, row, item = match(said, labels)
    assert {(b, i): r for b, r, i in zip(picture.tolist(), row.tolist(), item.tolist(), strict=True)} == planted


def test_spares_are_other_rows_that_say_the_same() -> None:
    labels = labels_of([scene_from_seed(seed) for seed in range(8)], 8)
    torch.manual_seed(1)
    heads = TeachingHeads(SPARING, 16, 24)
    said = heads.object_logits(torch.randn(8, 16, 24))
    first = match(said, labels)
    second = match_spares(said, labels, first)
    rows = [set(zip(picture.tolist(), row.tolist(), strict=True)) for picture, row, _ in (first, second)]
    objects = [sorted(zip(picture.tolist(), item.tolist(), strict=True)) for picture, _, item in (first, second)]
    assert len(rows[0]) == len(rows[1]) == sum(labels.counts) and rows[0].isdisjoint(rows[1])
    assert objects[0] == objects[1]
    # The row that is present stands for the object; the other one that says the same is its spare.
    one = dataclasses.replace(labels.of(torch.tensor([0])), counts=(1,))
    box = torch.full((1, 16, 4), 0.9)
    box[0, [3, 11]] = one.box[0, 0]
    alike = {name: torch.zeros(1, 16, logits.shape[-1]) for name, logits in said.classes.items()}
    presence = torch.zeros(1, 16)
    presence[0, 11] = 9.0
    alone = ObjectLogits(presence, alike, box)
    taken = match(alone, one)
    assert (int(taken[1]), int(match_spares(alone, one, taken)[1])) == (11, 3)


def test_spares_learn_but_are_not_counted() -> None:
    labels = dataclasses.replace(labels_of([scene_from_seed(seed) for seed in range(3)], 8), ground=None)
    grads, figures = [], []
    for teaching in (PLACING, SPARING):
        torch.manual_seed(2)
        heads = TeachingHeads(teaching, 16, 24)
        rows = torch.randn(3, 16, 24, requires_grad=True)
        loss = seeing_loss(heads, None, rows, labels)
        loss.total.backward()
        assert rows.grad is not None
        unit = F.normalize(heads.names.weight[0].detach(), dim=0)  # of presence
        grads.append(rows.grad)
        figures.append(loss.figures)
    assert figures[0] == figures[1]
    # A row that stands for nothing learns along one direction, that of presence; with spares more rows learn others.
    rest = [grad - (grad @ unit)[..., None] * unit for grad in grads]
    others = [int((one.norm(dim=-1) > 1e-3 * one.norm(dim=-1).max()).sum()) for one in rest]
    assert others == [sum(labels.counts), 2 * sum(labels.counts)]


def test_loss_is_finite_and_teaches_every_head() -> None:
    torch.manual_seed(0)
    heads = TeachingHeads(TEACHING, 16, 24)
    labels = labels_of([scene_from_seed(seed) for seed in range(3)], 8)
    loss = seeing_loss(heads, torch.randn(3, 64, 16), torch.randn(3, 16, 24), labels)
    loss.total.backward()
    assert torch.isfinite(loss.total)
    for parameter in heads.parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().sum()) > 0
    assert labels.box.shape == (3, MAX_THINGS, 4)


def test_edges_are_taught_where_asked() -> None:
    torch.manual_seed(0)
    heads = TeachingHeads(PLACING, 16, 24)
    labels = labels_of([scene_from_seed(seed) for seed in range(3)], 8)
    patches = torch.randn(3, 64, 16)
    loss = seeing_loss(heads, patches, torch.randn(3, 16, 24), labels)
    loss.total.backward()
    assert heads.edges is not None and float(heads.edges.weight.grad.abs().sum()) > 0  # type: ignore[union-attr]
    assert 0 < loss.figures["edges"] < 1
    without = seeing_loss(TeachingHeads(TEACHING, 16, 24), patches, torch.randn(3, 16, 24), labels)
    assert "edges" not in without.figures


def test_edge_loss_is_least_at_the_blurred_truth() -> None:
    true = torch.tensor([[0.1, 0.255, 0.5, 0.75]])
    places = torch.arange(101.0)
    best = -((places - 100 * true[..., None]) ** 2) / 2
    least = edge_loss(best, true).item()
    assert least == pytest.approx(0.5 * math.log(2 * math.pi * math.e), abs=1e-3)  # entropy of a Gaussian, 1 wide
    assert edge_loss(best.roll(1, -1), true).item() == pytest.approx(least + 0.5, abs=1e-3)  # off by one: 1/2 nat
    assert edge_loss(torch.zeros(0, 4, 101), torch.zeros(0, 4)).item() == 0


def test_corners() -> None:
    assert corners(torch.tensor([0.5, 0.5, 0.2, 0.4])).tolist() == pytest.approx([0.4, 0.3, 0.6, 0.7])
