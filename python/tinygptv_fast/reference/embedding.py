"""Slow twin of ``ops.embedding``: indexing, then one product for int8."""

from __future__ import annotations

import torch


def embedding(ids: torch.Tensor, table: torch.Tensor, scales: torch.Tensor | None = None) -> torch.Tensor:
    """``table[ids]`` float32 [T, C] of ids [T] and table float32, bfloat16 or int8 [V, C]; scales float32 [V]."""
    rows = table[ids.long()].float()
    return rows if scales is None else rows * scales[ids.long(), None]
