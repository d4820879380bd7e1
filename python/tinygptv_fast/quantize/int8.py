"""int8 matrices: one float32 scale per row (output channel, or token of an embedding table), symmetric.

value = q·s with q in −127..127 and s = max|w| / 127 of the row. Rows with outliers keep them: at 8 bits clipping gains
nothing on normal weights (the best clip point of a Gaussian is beyond the largest of a few thousand samples).
Also the meaning of a linear layer on int8 weights with activations rounded per token, which the fast paths must match.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..errors import CheckpointError, InvalidArgumentError
from .measure import ErrorSums, measure

_LEVELS = 127.0
_BLOCK_ELEMENTS = 1 << 22
MAX_COLUMNS = (2**31 - 1) // (127 * 127)  # an int32 accumulator cannot overflow up to here


@dataclass(frozen=True)
class Int8Tensor:
    """A matrix in int8: qweight int8 [N, K], scales float32 [N]; ``error`` is what quantising cost, if done here."""

    qweight: torch.Tensor
    scales: torch.Tensor
    error: ErrorSums | None = None

    def __post_init__(self) -> None:
        if self.qweight.dim() != 2 or self.qweight.dtype != torch.int8 or not self.qweight.numel():
            raise InvalidArgumentError(
                f"qweight is {list(self.qweight.shape)} {self.qweight.dtype}, expected [N, K] torch.int8 with N, K >= 1"
            )
        if tuple(self.scales.shape) != (self.rows,) or self.scales.dtype != torch.float32:
            raise InvalidArgumentError(
                f"scales is {list(self.scales.shape)} {self.scales.dtype}, expected [N={self.rows}] torch.float32"
            )

    @property
    def rows(self) -> int:
        return int(self.qweight.shape[0])

    @property
    def columns(self) -> int:
        return int(self.qweight.shape[1])

    @property
    def nbytes(self) -> int:
        return self.qweight.numel() + 4 * self.scales.numel()


def quantize_int8(weight: torch.Tensor, *, name: str = "weight") -> Int8Tensor:
    """Quantise ``weight`` float32 [N, K] per row. An all-zero row gets s = 0.

    Raises ``CheckpointError`` naming ``name`` for NaN or infinity, ``InvalidArgumentError`` for a wrong shape or dtype.
    """
    if not isinstance(weight, torch.Tensor) or weight.dim() != 2 or weight.dtype != torch.float32 or not weight.numel():
        what = f"{list(weight.shape)} {weight.dtype}" if isinstance(weight, torch.Tensor) else type(weight).__name__
        raise InvalidArgumentError(f"{name} is {what}, expected [N, K] torch.float32 with N, K >= 1")
    weight = weight.detach()
    qweight = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(weight.shape[0])
    error = ErrorSums()
    step = max(1, _BLOCK_ELEMENTS // weight.shape[1])
    for start in range(0, weight.shape[0], step):
        block = weight[start : start + step]
        q, s = _round_rows(block)
        if not bool(torch.isfinite(s).all()):
            row = start + int((~torch.isfinite(s)).nonzero()[0])
            raise CheckpointError(f"{name} holds NaN or infinity in row {row}, expected finite weights")
        qweight[start : start + step], scales[start : start + step] = q.to(torch.int8), s
        error += measure(block, q * s[:, None])
    return Int8Tensor(qweight, scales, error)


def dequantize_int8(tensor: Int8Tensor) -> torch.Tensor:
    """float32 [N, K] = q·s. Raises ``CheckpointError`` for a scale that is not finite."""
    if not bool(torch.isfinite(tensor.scales).all()):
        raise CheckpointError("scales of an int8 tensor hold NaN or infinity, expected finite float32")
    return tensor.qweight.float().mul_(tensor.scales[:, None])


def quantize_tokens_int8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations float32 [..., K] to (q int8 [..., K], s float32 [...]) with s = max|x| / 127 of each token."""
    if x.dtype != torch.float32 or x.dim() < 1 or not x.shape[-1]:
        raise InvalidArgumentError(f"x is {list(x.shape)} {x.dtype}, expected [..., K] torch.float32 with K >= 1")
    q, s = _round_rows(x)
    return q.to(torch.int8), s


def quantized_linear_int8(x: torch.Tensor, weight: Int8Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """float32 [..., N] = (Σ_k qx·qw)·sx·sw + bias: the reference of the int8 linear layer.

    x float32 [..., K] is rounded per token; the integer sum is exact (computed in float64, where it is below 2^53; an
    int32 accumulator gives the same up to K = 133,144), converted to float32 once, then scaled by sx, then by sw.
    """
    if x.dim() < 1 or x.shape[-1] != weight.columns:
        raise InvalidArgumentError(f"x is {list(x.shape)}, expected [..., K={weight.columns}]; K was set by weight")
    if weight.columns > MAX_COLUMNS:
        raise InvalidArgumentError(f"weight has K={weight.columns}, expected at most {MAX_COLUMNS} (int32 sums)")
    if bias is not None and tuple(bias.shape) != (weight.rows,):
        raise InvalidArgumentError(f"bias is {list(bias.shape)}, expected [N={weight.rows}]; N was set by weight")
    q, s = quantize_tokens_int8(x)
    total = q.double() @ weight.qweight.double().t()
    out = total.float() * s[..., None] * weight.scales
    return out if bias is None else out + bias


def _round_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Levels (float32, integers −127..127) and scales of the last axis; NaN or infinity shows in the scale."""
    scale = x.abs().amax(-1) / _LEVELS
    safe = torch.where(scale == 0, 1.0, scale)
    levels = (x / safe[..., None]).round_().clamp_(-_LEVELS, _LEVELS)
    return torch.where(scale[..., None] == 0, 0.0, levels), scale
