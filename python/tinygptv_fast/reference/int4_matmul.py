"""Slow twin of ``ops.int4_matmul``: the same arithmetic in plain torch, its sums in float64.

Rounding of activations is the same float32 operations, so the integers are equal; only the order and width of the
final sum differ. Knows the stored form of int4 (``Int4Tensor``), nothing of the packed one.
"""

from __future__ import annotations

import torch

from ..errors import InvalidArgumentError
from ..quantize.int4 import Int4Tensor
from ..quantize.packing import unpack_nibbles

BLOCK = 32  # activations that share a scale
_EXPONENTS = (-100, 100)  # of scales; blocks that would need a smaller one count as zeros, a larger one as infinite


def round_activations(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x float32 [M, K] → levels int8 [M, ceil(K/32), 32] and scales float32 [M, ceil(K/32)]; value = level·scale.

    scale = the least power of two with max|x| / scale < 127.5 in the block, level = x / scale to nearest, ties to even.
    NaN or infinity in a block, or a scale above 2^100, makes it NaN; a scale below 2^-100 makes it zero.
    """
    padded = torch.nn.functional.pad(x, (0, -x.shape[1] % BLOCK)).view(x.shape[0], -1, BLOCK)
    largest = padded.abs().amax(-1, keepdim=True)
    finite = torch.isfinite(largest)
    mantissa, exponent = torch.frexp(torch.where(finite, largest, 1.0))  # 0.5 <= mantissa < 1
    exponent = exponent - 7 + (mantissa >= 127.5 / 128).int()
    finite &= exponent <= _EXPONENTS[1]
    good = finite & (largest > 0) & (exponent >= _EXPONENTS[0])
    step = torch.ldexp(torch.ones_like(largest), torch.where(good, exponent, 0))
    levels = torch.where(good, (padded / step).round(), 0.0).to(torch.int8)
    scales = torch.where(good, step, torch.where(finite, 0.0, torch.nan))
    return levels, scales.squeeze(-1)


def int4_matmul_parts(x: torch.Tensor, w: Int4Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x Wᵀ and Σ|partial products of 32 columns|, both float64 [M, N]: the second bounds the error of the first in
    float32."""
    if x.dim() != 2 or x.dtype != torch.float32 or x.shape[1] != w.columns:
        raise InvalidArgumentError(f"x is {list(x.shape)} {x.dtype}, expected [M, K={w.columns}] torch.float32")
    x_levels, x_scales = round_activations(x)
    levels = torch.nn.functional.pad(unpack_nibbles(w.qweight, w.columns).float(), (0, -w.columns % BLOCK))
    zeros = torch.full_like(w.scales, 8.0, dtype=torch.float32)
    if w.zeros is not None:
        zeros = unpack_nibbles(w.zeros, w.groups).float()
    total = torch.zeros(x.shape[0], w.rows, dtype=torch.float64)
    magnitude = torch.zeros_like(total)
    for block in range(x_levels.shape[1]):
        group = block * BLOCK // w.group_size
        q = levels[:, block * BLOCK : (block + 1) * BLOCK] - zeros[:, group, None]
        dot = x_levels[:, block].float() @ q.t()  # integers below 2^16: exact
        scale = x_scales[:, block, None] * w.scales[:, group].float()  # rounded to float32, as the kernels do
        partial = dot.double() * scale.double()
        total += partial
        magnitude += partial.abs()
    return total, magnitude


def int4_matmul(
    x: torch.Tensor, w: Int4Tensor, bias: torch.Tensor | None = None, *, activation: str | None = None
) -> torch.Tensor:
    """``act(x Wᵀ + bias)`` float32 [M, N] of x float32 [M, K]; bias float32 [N]; activation None or "gelu_tanh"."""
    if activation not in (None, "gelu_tanh"):
        raise InvalidArgumentError(f"activation is {activation!r}, expected None or 'gelu_tanh'")
    total, _ = int4_matmul_parts(x, w)
    if bias is not None:
        total = total + bias.double()
    if activation == "gelu_tanh":
        total = torch.nn.functional.gelu(total, approximate="tanh")
    return total.float()
