"""Slow twin of ``ops.matmul``: x Wᵀ in float64, rounded to float32 once."""

from __future__ import annotations

import torch

from ..errors import InvalidArgumentError


def matmul(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None, *, activation: str | None = None
) -> torch.Tensor:
    """``act(x Wᵀ + bias)`` float32 [M, N] of x float32 [M, K] and w float32 or bfloat16 [N, K]; bias float32 [N];
    activation None or "gelu_tanh"."""
    if x.dim() != 2 or x.dtype != torch.float32 or w.dim() != 2 or x.shape[1] != w.shape[1]:
        raise InvalidArgumentError(f"x is {list(x.shape)} {x.dtype}, w {list(w.shape)}, expected f32 [M, K] and [N, K]")
    if activation not in (None, "gelu_tanh"):
        raise InvalidArgumentError(f"activation is {activation!r}, expected None or 'gelu_tanh'")
    total = x.double() @ w.double().t()
    if bias is not None:
        total = total + bias.double()
    if activation == "gelu_tanh":
        total = torch.nn.functional.gelu(total, approximate="tanh")
    return total.float()
