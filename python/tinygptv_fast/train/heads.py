"""Throw-away heads that teach the vision side before it meets a word. They are not part of the shipped model.

Two of them: labels of the 4x4 cells of every patch (what shape, what colour is here), and set prediction on the
Q-Former's rows: each row says whether it stands for an object, which one and where, matched one to one with the
drawn objects (Carion et al. 2020, DETR, arXiv 2005.12872).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.scenes import COLOURS, SHAPES
from .batches import CELLS, Labels
from .matching import assign

_BOX_WEIGHT, _OVERLAP_WEIGHT, _PRESENCE_WEIGHT = 5.0, 2.0, 3.0


@dataclass(frozen=True)
class ObjectLogits:
    """Logits presence [B, NQ], shape [B, NQ, shapes], colour [B, NQ, colours]; box [B, NQ, 4], cx cy w h in 0..1."""

    presence: Tensor
    shape: Tensor
    colour: Tensor
    box: Tensor


class TeachingHeads(nn.Module):
    """cells: [B, patches, E] → logits per cell; objects: [B, NQ, Q] → presence, shape, colour, box."""

    def __init__(self, vision_width: int, qformer_width: int) -> None:
        super().__init__()
        self.cells = nn.Linear(vision_width, CELLS * CELLS * (len(SHAPES) + 1 + len(COLOURS) + 1))
        self.names = nn.Linear(qformer_width, 1 + len(SHAPES) + len(COLOURS))
        self.boxes = nn.Sequential(nn.Linear(qformer_width, 128), nn.GELU(), nn.Linear(128, 4))

    def cell_logits(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """[B, N, E] → shape logits [B, N, CELLS², shapes+1], colour logits [B, N, CELLS², colours+1]."""
        y = self.cells(patches).float().view(*patches.shape[:2], CELLS * CELLS, -1)
        return y.split([len(SHAPES) + 1, len(COLOURS) + 1], dim=-1)

    def object_logits(self, rows: Tensor) -> ObjectLogits:
        """rows [B, NQ, Q]."""
        presence, shape, colour = self.names(rows).float().split([1, len(SHAPES), len(COLOURS)], dim=-1)
        return ObjectLogits(presence[..., 0], shape, colour, self.boxes(rows).float().sigmoid())


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
    """The scalar to minimise and figures of the batch, 0..1: right shapes and colours, IoU > 0.5, right counts."""

    total: Tensor
    shape: float
    colour: float
    located: float
    counted: float


@torch.no_grad()
def match(said: ObjectLogits, labels: Labels) -> tuple[Tensor, Tensor, Tensor]:
    """Which row stands for which object: three int64 [objects] index vectors (picture, row, object)."""
    NQ = said.presence.shape[1]
    shape, colour = (t.clamp(min=0)[:, None].expand(-1, NQ, -1) for t in (labels.shape, labels.colour))
    cost = -said.presence.sigmoid()[..., None]
    cost = cost - said.shape.softmax(-1).gather(2, shape) - said.colour.softmax(-1).gather(2, colour)
    cost = cost + _BOX_WEIGHT * (said.box[:, :, None] - labels.box[:, None]).abs().sum(-1)
    cost = cost - _OVERLAP_WEIGHT * generalised_iou(corners(said.box)[:, :, None], corners(labels.box)[:, None])
    picture: list[int] = []
    row: list[int] = []
    item: list[int] = []
    for index, (table, count) in enumerate(zip(cost.transpose(1, 2).tolist(), labels.counts, strict=True)):
        picture += [index] * count
        row += assign(table[:count])
        item += range(count)
    return torch.tensor(picture), torch.tensor(row), torch.tensor(item)


def seeing_loss(heads: TeachingHeads, patches: Tensor, rows: Tensor, labels: Labels) -> SeeingLoss:
    """patches [B, I-1, E] (class row left out), rows [B, NQ, Q]."""
    cell_shape, cell_colour = heads.cell_logits(patches)
    cells = F.cross_entropy(cell_shape.flatten(0, 2), labels.cell_shape.flatten())
    cells = cells + F.cross_entropy(cell_colour.flatten(0, 2), labels.cell_colour.flatten())
    said = heads.object_logits(rows)
    picture, row, item = match(said, labels)
    present = torch.zeros_like(said.presence)
    present[picture, row] = 1.0
    shape, colour, mine = said.shape[picture, row], said.colour[picture, row], said.box[picture, row]
    true_shape, true_colour, true = (t[picture, item] for t in (labels.shape, labels.colour, labels.box))
    names = F.cross_entropy(shape, true_shape) + F.cross_entropy(colour, true_colour)
    names = names + _PRESENCE_WEIGHT * F.binary_cross_entropy_with_logits(said.presence, present)
    overlap = generalised_iou(corners(mine), corners(true))
    boxes = _BOX_WEIGHT * (mine - true).abs().sum(-1).mean() + _OVERLAP_WEIGHT * (1 - overlap).mean()
    with torch.no_grad():
        counted = ((said.presence > 0).sum(1) == torch.tensor(labels.counts)).float().mean().item()
        right_shape = (shape.argmax(-1) == true_shape).float().mean().item()
        right_colour = (colour.argmax(-1) == true_colour).float().mean().item()
        located = (overlap > 0.5).float().mean().item()
    return SeeingLoss(cells + names + boxes, right_shape, right_colour, located, counted)
