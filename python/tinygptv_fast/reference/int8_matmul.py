"""Slow twin of ``ops.int8_matmul``: the same arithmetic in plain torch, its sums in float64.

Activations are rounded by the same float32 operations as for int4, so the integers are equal. Knows the stored form of
int8 (``Int8Tensor``), nothing of the packed one.
"""

from __future__ import annotations

import torch

from ..errors import InvalidArgumentError
from ..quantize.int8 import Int8Tensor
from .int4_matmul import BLOCK, round_activations


def int8_matmul_parts(x: torch.Tensor, w: Int8Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x Wᵀ and Σ|partial products of 32 columns|, both float64 [M, N]: the second bounds the error of the first in
    float32."""
    if x.dim() != 2 or x.dtype != torch.float32 or x.shape[1] != w.columns:
        raise InvalidArgumentError(f"x is {list(x.shape)} {x.dtype}, expected [M, K={w.columns}] torch.float32")
    x_levels, x_scales = round_activations(x)
    levels = torch.nn.functional.pad(w.qweight.float(), (0, -w.columns % BLOCK))
    total = torch.zeros(x.shape[0], w.qweight.shape[0], dtype=torch.float64)
    magnitude = torch.zeros_like(total)
    for block in range(x_levels.shape[1]):
        q = levels[:, block * BLOCK : (block + 1) * BLOCK]
        dot = x_levels[:, block].float() @ q.t()  # integers below 2^20: exact
        partial = dot.double() * x_scales[:, block, None].double()
        total += partial
        magnitude += partial.abs()
    return total * w.scales.double(), magnitude * w.scales.double().abs()


def int8_matmul(
    x: torch.Tensor, w: Int8Tensor, bias: torch.Tensor | None = None, *, activation: str | None = None
) -> torch.Tensor:
    """``act(x Wᵀ + bias)`` float32 [M, N] of x float32 [M, K]; bias float32 [N]; activation None or "gelu_tanh"."""
    if activation not in (None, "gelu_tanh"):
        raise InvalidArgumentError(f"activation is {activation!r}, expected None or 'gelu_tanh'")
    total, _ = int8_matmul_parts(x, w)
    if bias is not None:
        total = total + bias.double()
    if activation == "gelu_tanh":
        total = torch.nn.functional.gelu(total, approximate="tanh")
    return total.float()
