"""The losses of the three phases on the reference model. Autocast to bfloat16 where the caller asks for it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..reference.loss import IGNORE
from ..reference.model import TinyGPTVReference
from .batches import Rows
from .coordinates import blurred_cross_entropy
from .heads import Labels, SeeingLoss, TeachingHeads, seeing_loss

_BLUR = 1.0  # standard deviation of a coordinate's label, in hundredths of the side


def see(model: TinyGPTVReference, heads: TeachingHeads, pixels: Tensor, labels: Labels) -> SeeingLoss:
    """Vision tower and Q-Former under the throw-away heads."""
    image = model.ln_vision(model.vision(pixels))
    return seeing_loss(heads, image[:, 1:], model.qformer(image), labels)


def row_logits(model: TinyGPTVReference, visual: Tensor, rows: Rows) -> Tensor:
    """Logits at the positions of ``rows.rest``, f32 [B, T, V]; visual [P, NQ, C]."""
    return model.text.logits(_row_hidden(model, visual, rows))


def _row_hidden(model: TinyGPTVReference, visual: Tensor, rows: Rows) -> Tensor:
    text = model.text
    before = text.embed(rows.before).expand(rows.rest.shape[0], -1, -1)
    embeds = torch.cat([before, visual[rows.picture].to(before.dtype), text.embed(rows.rest)], dim=1)
    # Padding stands behind every answer, where causal attention never looks: no mask is needed.
    return text(embeds)[:, -rows.rest.shape[1] :]


def read(model: TinyGPTVReference, visual: Tensor, rows: Rows, numbers: Tensor) -> Tensor:
    """Sum over the batch's answer tokens of weight · cross-entropy; coordinates against blurred labels.

    visual [P, NQ, C]; numbers int64 [101], the tokens of 0..100.
    """
    learnt = rows.labels != IGNORE
    logits = model.text.logits(_row_hidden(model, visual, rows)[learnt])
    losses = blurred_cross_entropy(logits, rows.labels[learnt], rows.coordinate[learnt], numbers, _BLUR)
    return losses @ rows.weight[learnt]
