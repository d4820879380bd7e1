"""Ranking candidate answers by their loss (the original's multi_select, minigpt_base.py:397, done per row)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .layout import ChatLayout
from .loss import causal_lm_loss


@torch.no_grad()
def rank_candidates(
    layout: ChatLayout, prompt: Tensor, candidates: Sequence[Sequence[int]]
) -> tuple[list[int], list[float]]:
    """Order ``candidates`` (token ids, end symbol included) by mean loss after ``prompt`` [T, C], best first.

    Returns (ranking, losses in the order given). Each candidate is its own row, so a result never depends on the
    others; the original averaged over its batch instead.
    """
    losses = []
    for ids in candidates:
        batch = layout.batch([prompt], [layout.answer(ids)])
        hidden = layout.backbone(batch.inputs_embeds, batch.attention_mask)
        losses.append(float(causal_lm_loss(layout.backbone.logits(hidden), batch.labels)))
    ranking = sorted(range(len(losses)), key=losses.__getitem__)
    return ranking, losses
