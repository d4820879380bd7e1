"""The causal language-model loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

IGNORE = -100


def causal_lm_loss(logits: Tensor, labels: Tensor, *, per_row: bool = False) -> Tensor:
    """Mean cross-entropy of label t+1 under the logits at t.

    logits f32 [B, T, V]; labels int64 [B, T], -100 where nothing is learnt. Returns a scalar: the mean over all
    labelled positions of the batch (the original's reduction); with ``per_row`` the mean of each row, f32 [B].
    """
    V = logits.shape[-1]
    flat, target = logits[:, :-1].reshape(-1, V), labels[:, 1:].reshape(-1)
    if not per_row:
        return F.cross_entropy(flat, target, ignore_index=IGNORE)
    losses = F.cross_entropy(flat, target, ignore_index=IGNORE, reduction="none").view(labels.shape[0], -1)
    counts = (labels[:, 1:] != IGNORE).sum(dim=1)
    return losses.sum(dim=1) / counts
