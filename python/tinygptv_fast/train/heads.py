"""Throw-away heads that teach the vision side before it meets a word. They are not part of the shipped model.

Labels of the 4x4 cells of every patch (what shape, what colour is here), and set prediction on the Q-Former's rows:
each row says whether it stands for an object, which one and where, matched one to one with the drawn objects (Carion et
al. 2020, DETR, arXiv 2005.12872). What there is to name is given as data; nothing here knows a world.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..reference.loss import IGNORE
from .matching import assign

CELLS = 4  # labels per side of a patch
_BOX_WEIGHT, _OVERLAP_WEIGHT = 5.0, 2.0
_EDGE_BLUR = 1.0  # standard deviation of an edge's label, in classes
_TAKEN = 1e3  # far above what a row can cost
_NAMES = ("shape", "colour")  # what rows and objects are matched by, besides their boxes


@dataclass(frozen=True)
class Labels:
    """What is drawn where, and what the objects are; the names are those of a ``Teaching``.

    cells: int64 [B, patches, CELLS²] each, 0 = background, else class + 1. things: int64 [B, M] each, IGNORE in
    padding and where it does not apply. box f32 [B, M, 4] (cx, cy, w, h in 0..1); counts: objects of each picture;
    ground: int64 [B] or None.
    """

    cells: Mapping[str, Tensor]
    things: Mapping[str, Tensor]
    box: Tensor
    counts: tuple[int, ...]
    ground: Tensor | None = None

    def to(self, device: torch.device) -> Labels:
        return Labels(
            {name: tensor.to(device) for name, tensor in self.cells.items()},
            {name: tensor.to(device) for name, tensor in self.things.items()},
            self.box.to(device),
            self.counts,
            None if self.ground is None else self.ground.to(device),
        )

    def of(self, pictures: Tensor) -> Labels:
        """Those of some pictures, int64 [n], in that order."""
        return Labels(
            {name: tensor[pictures] for name, tensor in self.cells.items()},
            {name: tensor[pictures] for name, tensor in self.things.items()},
            self.box[pictures],
            tuple(self.counts[index] for index in pictures.tolist()),
            None if self.ground is None else self.ground[pictures],
        )


@dataclass(frozen=True)
class Teaching:
    """What is taught, name → number of classes: of cells (background comes on top), of objects, of the whole picture.

    weights: of an object's name in the loss, 1 where it is not given. rare_cells: of a cell's name, the weight of the
    mean over cells that are not background, on top of the mean over all: letters are four cells in a hundred.
    presence: the weight of which rows stand for an object, which is what counting needs.
    spares: with it a second row tells every object as well, one that does not count as present. Where two objects fall
    to one row, the spare of one still tells it.
    edges: classes over 0..1 that a linear head tells each edge of a box by (0: no such head). A box that only a hidden
    layer can read from a row is one that a language model is slow to read, too.
    """

    cells: Mapping[str, int]
    things: Mapping[str, int]
    grounds: int = 0
    edges: int = 0
    weights: Mapping[str, float] = field(default_factory=dict)
    rare_cells: Mapping[str, float] = field(default_factory=dict)
    presence: float = 3.0
    spares: bool = False


@dataclass(frozen=True)
class ObjectLogits:
    """Logits: presence [B, NQ], classes name → [B, NQ, n], edges [B, NQ, 4, edges] of x1 y1 x2 y2 or None; box
    [B, NQ, 4], cx cy w h in 0..1."""

    presence: Tensor
    classes: Mapping[str, Tensor]
    box: Tensor
    edges: Tensor | None = None


class TeachingHeads(nn.Module):
    """cells: [B, patches, E] → logits per cell; objects: [B, NQ, Q] → presence, classes, box."""

    def __init__(self, teaching: Teaching, vision_width: int, qformer_width: int) -> None:
        super().__init__()
        self.teaching = teaching
        self.cells = nn.Linear(vision_width, CELLS * CELLS * sum(n + 1 for n in teaching.cells.values()))
        self.names = nn.Linear(qformer_width, 1 + sum(teaching.things.values()))
        self.boxes = nn.Sequential(nn.Linear(qformer_width, 128), nn.GELU(), nn.Linear(128, 4))
        self.ground = nn.Linear(qformer_width, teaching.grounds) if teaching.grounds else None
        self.edges = nn.Linear(qformer_width, 4 * teaching.edges) if teaching.edges else None

    def cell_logits(self, patches: Tensor) -> dict[str, Tensor]:
        """[B, N, E] → name → f32 [B, N, CELLS², classes + 1]."""
        y = self.cells(patches).float().view(*patches.shape[:2], CELLS * CELLS, -1)
        sizes = [n + 1 for n in self.teaching.cells.values()]
        return dict(zip(self.teaching.cells, y.split(sizes, dim=-1), strict=True))

    def object_logits(self, rows: Tensor) -> ObjectLogits:
        """rows [B, NQ, Q]."""
        presence, *classes = self.names(rows).float().split([1, *self.teaching.things.values()], dim=-1)
        named = dict(zip(self.teaching.things, classes, strict=True))
        edges = None if self.edges is None else self.edges(rows).float().unflatten(-1, (4, self.teaching.edges))
        return ObjectLogits(presence[..., 0], named, self.boxes(rows).float().sigmoid(), edges)


def mean_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Over the targets that are not IGNORE; 0 where all are. logits [n, classes], target int64 [n]."""
    learnt = target != IGNORE
    return F.cross_entropy(logits[learnt], target[learnt], reduction="sum") / learnt.sum().clamp(min=1)


def corners(box: Tensor) -> Tensor:
    """(cx, cy, w, h) → (x1, y1, x2, y2), any leading dims."""
    centre, half = box[..., :2], box[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU of corner boxes, broadcast over leading dims (Rezatofighi et al. 2019, arXiv 1902.09630)."""
    common = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    area = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - common
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    return common / area.clamp(min=1e-9) - (hull - area) / hull.clamp(min=1e-9)


@dataclass(frozen=True)
class SeeingLoss:
    """The scalar to minimise; figures of the batch, 0..1: the share of objects whose class is right, by name,
    "located" (IoU > 0.5), the share of pictures whose count is right, "counted", and how far the edges told by the
    linear head are off in the mean, "edges"."""

    total: Tensor
    figures: Mapping[str, float]


Matched = tuple[Tensor, Tensor, Tensor]
"""Which row stands for which object: three int64 [objects] index vectors (picture, row, object)."""


def _unlikeness(said: ObjectLogits, labels: Labels) -> Tensor:
    """[B, NQ, M]: how little each row says each object, presence left out."""
    NQ = said.presence.shape[1]
    cost = torch.zeros_like(said.presence)[..., None]
    for name in _NAMES:
        target = labels.things[name][:, None].expand(-1, NQ, -1)
        likely = said.classes[name].softmax(-1).gather(2, target.clamp(min=0))
        cost = cost - likely.masked_fill(target == IGNORE, 0.0)
    cost = cost + _BOX_WEIGHT * (said.box[:, :, None] - labels.box[:, None]).abs().sum(-1)
    return cost - _OVERLAP_WEIGHT * generalised_iou(corners(said.box)[:, :, None], corners(labels.box)[:, None])


@torch.no_grad()
def match(said: ObjectLogits, labels: Labels) -> Matched:
    """The rows that stand for the objects: the cheapest assignment, by presence, names and boxes."""
    return _assigned(_unlikeness(said, labels) - said.presence.sigmoid()[..., None], labels.counts)


@torch.no_grad()
def match_spares(said: ObjectLogits, labels: Labels, taken: Matched) -> Matched:
    """A second row for every object, by names and boxes, none of those that stand for one already (``taken``)."""
    cost = _unlikeness(said, labels)
    cost[taken[0], taken[1]] += _TAKEN
    return _assigned(cost, labels.counts)


def _assigned(cost: Tensor, counts: Sequence[int]) -> Matched:
    picture: list[int] = []
    row: list[int] = []
    item: list[int] = []
    for index, (table, count) in enumerate(zip(cost.transpose(1, 2).tolist(), counts, strict=True)):
        picture += [index] * count
        row += assign(table[:count])
        item += range(count)
    device = cost.device
    picture_, row_, item_ = (torch.tensor(index, dtype=torch.int64, device=device) for index in (picture, row, item))
    return picture_, row_, item_


def edge_loss(logits: Tensor, true: Tensor) -> Tensor:
    """Mean cross-entropy of edges under blurred labels. logits [n, 4, K], true [n, 4] in 0..1; 0 where n is 0."""
    K = logits.shape[-1]
    places = torch.arange(K, device=logits.device, dtype=torch.float32)
    wanted = (-((places - (K - 1) * true[..., None]) ** 2) / (2 * _EDGE_BLUR**2)).softmax(-1)
    return -(wanted * logits.log_softmax(-1)).sum() / max(1, 4 * len(logits))


def seeing_loss(heads: TeachingHeads, patches: Tensor | None, rows: Tensor, labels: Labels) -> SeeingLoss:
    """patches [B, I-1, E] (class row left out; None: nothing is asked of them), rows [B, NQ, Q]."""
    loss = torch.zeros((), device=rows.device)
    for name, logits in ({} if patches is None else heads.cell_logits(patches)).items():
        flat, target = logits.flatten(0, 2), labels.cells[name].flatten()
        loss = loss + F.cross_entropy(flat, target)
        if name in heads.teaching.rare_cells:
            there = target != 0
            loss = loss + heads.teaching.rare_cells[name] * mean_cross_entropy(flat[there], target[there])
    if heads.ground is not None and labels.ground is not None:
        loss = loss + F.cross_entropy(heads.ground(rows.mean(dim=1)).float(), labels.ground)
    said = heads.object_logits(rows)
    picture, row, item = match(said, labels)
    present = torch.zeros_like(said.presence)
    present[picture, row] = 1.0
    loss = loss + heads.teaching.presence * F.binary_cross_entropy_with_logits(said.presence, present)
    firsts = len(picture)  # behind these come the spares, which learn the same and are not in the figures
    if heads.teaching.spares:
        spare = match_spares(said, labels, (picture, row, item))
        picture, row, item = (torch.cat(both) for both in zip((picture, row, item), spare, strict=True))
    figures = {}
    for name, every in said.classes.items():
        logits, target = every[picture, row], labels.things[name][picture, item]
        loss = loss + heads.teaching.weights.get(name, 1.0) * mean_cross_entropy(logits, target)
        told, named = logits[:firsts].argmax(-1), target[:firsts]
        figures[name] = _share(told[named != IGNORE] == named[named != IGNORE])
    mine, box = said.box[picture, row], labels.box[picture, item]
    overlap = generalised_iou(corners(mine), corners(box))
    many = max(1, len(overlap))
    loss = loss + (_BOX_WEIGHT * (mine - box).abs().sum() + _OVERLAP_WEIGHT * (1 - overlap).sum()) / many
    figures["located"] = _share(overlap[:firsts] > 0.5)
    if said.edges is not None:
        edges = said.edges[picture, row]
        loss = loss + edge_loss(edges, corners(box))
        off = (edges.argmax(-1) / (heads.teaching.edges - 1) - corners(box)).abs()[:firsts]
        figures["edges"] = off.mean().item() if firsts else 0.0
    counts = torch.tensor(labels.counts, device=rows.device)
    figures["counted"] = _share((said.presence > 0).sum(1) == counts)
    return SeeingLoss(loss, figures)


def _share(right: Tensor) -> float:
    """The share of True; 1 of nothing."""
    return right.float().mean().item() if len(right) else 1.0
