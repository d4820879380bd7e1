"""The losses of the three phases on the reference model. Autocast to bfloat16 where the caller asks for it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.vocabulary import NUMBERS
from ..reference.loss import IGNORE
from ..reference.model import TinyGPTVReference
from .batches import Labels, Rows
from .heads import SeeingLoss, TeachingHeads, seeing_loss

_BLUR = 1.0  # standard deviation of a coordinate's label, in hundredths of the side


def see(model: TinyGPTVReference, heads: TeachingHeads, pixels: Tensor, labels: Labels) -> SeeingLoss:
    """Vision tower and Q-Former under the throw-away heads."""
    image = model.ln_vision(model.vision(pixels))
    return seeing_loss(heads, image[:, 1:], model.qformer(image), labels)


def soft_coordinates(vocab_size: int, numbers: list[int]) -> Tensor:
    """f32 [V, V]: row i is the label of token i as a coordinate: a Gaussian over its neighbouring integers."""
    table = torch.eye(vocab_size)
    value = torch.tensor(list(NUMBERS), dtype=torch.float32)
    blurred = torch.exp(-((value[:, None] - value[None]) ** 2) / (2 * _BLUR**2))
    ids = torch.tensor(numbers)
    table[ids[:, None], ids[None]] = blurred / blurred.sum(1, keepdim=True)
    return table


def start_numbers(model: TinyGPTVReference, numbers: list[int]) -> None:
    """Give the number rows of the embedding and the head an order: Fourier features of v/100 instead of noise."""
    value = torch.tensor(list(NUMBERS), dtype=torch.float32) / 100
    C = model.config.text.width
    waves = torch.arange(1, C // 2 + 1, dtype=torch.float32) * math.pi / 8  # half a wave over 0..1 up to C/32 waves
    angles = value[:, None] * waves
    fall = 1 / (1 + waves / math.pi)  # slow waves large: near numbers stay near
    features = torch.cat([angles.cos() * fall, angles.sin() * fall], dim=1)
    features = features - features.mean(0)
    features = features / features.pow(2).mean().sqrt()
    with torch.no_grad():
        for table in (model.text.embed.weight, model.text.head.weight):
            table[numbers] = features * table.std()


def row_logits(model: TinyGPTVReference, visual: Tensor, rows: Rows) -> Tensor:
    """Logits at the positions of ``rows.rest``, f32 [B, T, V]; visual [P, NQ, C]."""
    return model.text.logits(_row_hidden(model, visual, rows))


def _row_hidden(model: TinyGPTVReference, visual: Tensor, rows: Rows) -> Tensor:
    text = model.text
    before = text.embed(rows.before).expand(rows.rest.shape[0], -1, -1)
    embeds = torch.cat([before, visual[rows.picture].to(before.dtype), text.embed(rows.rest)], dim=1)
    # Padding stands behind every answer, where causal attention never looks: no mask is needed.
    return text(embeds)[:, -rows.rest.shape[1] :]


def read(model: TinyGPTVReference, visual: Tensor, rows: Rows, soft: Tensor) -> Tensor:
    """Sum over the batch's answer tokens of weight · cross-entropy; coordinates against blurred labels.

    visual [P, NQ, C]; soft as ``soft_coordinates`` gives.
    """
    learnt = rows.labels != IGNORE
    logits = model.text.logits(_row_hidden(model, visual, rows)[learnt])
    labels, weight, coordinate = rows.labels[learnt], rows.weight[learnt], rows.coordinate[learnt]
    loss = F.cross_entropy(logits[~coordinate], labels[~coordinate], reduction="none") @ weight[~coordinate]
    if coordinate.any():
        blurred = F.cross_entropy(logits[coordinate], soft[labels[coordinate]], reduction="none")
        loss = loss + blurred @ weight[coordinate]
    return loss
