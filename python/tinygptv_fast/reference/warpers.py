"""Pure functions on logits: penalties and the sampling filters, in Hugging Face's order and arithmetic.

Order: repetition penalty, minimum length, then (sampling only) temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NEGATIVE_INFINITY = float("-inf")


def repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divide positive and multiply negative logits of seen ids by ``penalty`` (CTRL, arXiv 1909.05858).

    logits f32 [B, V]; seen int64 [B, n]. 1.0 changes nothing.
    """
    if penalty == 1.0 or seen.shape[1] == 0:
        return logits
    picked = logits.gather(1, seen)
    return logits.scatter(1, seen, torch.where(picked < 0, picked * penalty, picked / penalty))


def forbid(logits: Tensor, ids: Sequence[int]) -> Tensor:
    """Set the logits [B, V] of ``ids`` to -inf."""
    out = logits.clone()
    out[:, list(ids)] = NEGATIVE_INFINITY
    return out


def temperature(logits: Tensor, value: float) -> Tensor:
    """logits / value."""
    return logits / value


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k largest of each row [B, V] (ties with the k-th stay), -inf elsewhere."""
    threshold = logits.topk(min(k, logits.shape[-1]), dim=-1).values[:, -1:]
    return logits.masked_fill(logits < threshold, NEGATIVE_INFINITY)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of ids whose probability reaches p (nucleus, arXiv 1904.09751); at least one."""
    ascending, order = logits.sort(dim=-1)
    drop = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    drop[:, -1] = False
    return logits.masked_fill(drop.scatter(1, order, drop), NEGATIVE_INFINITY)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Drop ids less probable than p times the most probable one (arXiv 2407.01082)."""
    probabilities = logits.softmax(dim=-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), NEGATIVE_INFINITY)
