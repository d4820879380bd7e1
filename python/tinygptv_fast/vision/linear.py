"""One linear layer, four ways to compute it. Weights are held once: as stored, or reordered for the kernel.

What      y [M, N] = x [M, K] W^T + b, x float32 or bfloat16.
float32   F.linear on the stored matrix; bfloat16 and int8 matrices are widened for the call and dropped after it.
bfloat16  oneDNN's bfloat16 product (float32 sums) on weights reordered once; y is bfloat16. Without bfloat16
          instructions AVX-512 emulates it.
int8      x is rounded per token, q = round(x / s), s = max|x| / 127 (the rule of ``quantize.int8``); the sum of q·w is
          an exact int32; y = (float(sum) · s_w) · s + b in float32. oneDNN wants unsigned activations: q + 128 with
          128 as zero point, which it takes out of the int32 sum exactly. (Signed ones have no kernel on a CPU without
          AMX and run in oneDNN's plain reference loop, 15,000 times slower.)
          fine: x = s·q + (s/254)·q', what the first rounding left rounded once more: both go through one product, as
          twice the rows. For the few rows that cost little and carry what is left of the picture.
GPU       bfloat16 products on bfloat16 weights; on int8 ones (exact in bfloat16, widened for the call) the scales of
          the rows come behind the product, in float32.
Oracle    ``quantize.int8.quantized_linear_int8`` for int8; ``F.linear`` in float64 for the others.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UnsupportedError
from ..quantize.bfloat16 import to_bfloat16
from ..quantize.int8 import Int8Tensor, dequantize_int8, quantize_int8
from .arithmetic import Arithmetic
from .source import Matrix, WeightSource, matrix, vector

_TINY = 1e-30  # tokens whose largest entry is below this are rounded to zero; so is a token of zeros
REST = 254  # steps of the second rounding in one of the first: what is left of it is at most half a step, ±127
MAX_INT8_COLUMNS = (2**31 - 1) // (255 * 127)  # the int32 sum of unsigned activations cannot overflow up to here


class Linear(Protocol):
    """y [M, N] of x [M, K]. Immutable after construction: any number of threads may call it."""

    def __call__(self, x: Tensor, *, own: bool = False) -> Tensor:
        """``own``: x may be overwritten, nobody else reads it."""


class WidenedLinear:
    """float32 products with weights of any stored kind."""

    def __init__(self, weight: Matrix, bias: Tensor) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, x: Tensor, *, own: bool = False) -> Tensor:
        """x [M, K] → float32 [M, N]."""
        w = self._weight
        wide = dequantize_int8(w) if isinstance(w, Int8Tensor) else w.float()
        return F.linear(x.float(), wide, self._bias)


class Bfloat16Linear:
    """bfloat16 products, float32 sums."""

    def __init__(self, weight: Matrix, bias: Tensor) -> None:
        wide = dequantize_int8(weight) if isinstance(weight, Int8Tensor) else weight
        narrow = wide.clone() if wide.dtype == torch.bfloat16 else to_bfloat16(wide, name="weight")
        self._weight = torch.ops.mkldnn._reorder_linear_weight(narrow)
        self._bias = bias.to(torch.bfloat16)

    def __call__(self, x: Tensor, *, own: bool = False) -> Tensor:
        """x [M, K] → bfloat16 [M, N]."""
        return torch.ops.mkldnn._linear_pointwise(x.to(torch.bfloat16), self._weight, self._bias, "none", [], "")


class Int8Linear:
    """int8 weights per row, int8 activations per token; ``fine``: activations as two int8 numbers, 254 times finer."""

    def __init__(self, weight: Matrix, bias: Tensor, gain: Tensor | None = None, *, fine: bool = False) -> None:
        if not isinstance(weight, Int8Tensor):
            weight = quantize_int8(weight.float())
        times = None if gain is None else column_shares(gain)
        self._columns: Tensor | None = None
        self._share: Tensor | None = None
        if times is not None:
            self._columns = torch.repeat_interleave(torch.arange(weight.columns), times)
            self._share = 1.0 / times[self._columns]
            weight = Int8Tensor(weight.qweight[:, self._columns], weight.scales)
        if weight.columns > MAX_INT8_COLUMNS:
            raise UnsupportedError(
                f"int8 products take at most K={MAX_INT8_COLUMNS} columns, the weight has {weight.columns}"
            )
        self._packed = torch.ops.onednn.qlinear_prepack(weight.qweight, None)
        self._scales = weight.scales.clone()
        self._zeros = torch.zeros(weight.rows, dtype=torch.int32)
        self._bias, self._fine = bias, fine

    def __call__(self, x: Tensor, *, own: bool = False) -> Tensor:
        """x [M, K] → float32 [M, N]."""
        if self._columns is not None and self._share is not None:
            x, own = x[:, self._columns].float() * self._share, True
        if self._fine:
            q, s = round_tokens_finely(x)
            coarse, rest = self._product(q).chunk(2)
            total = coarse.add_(rest, alpha=1.0 / REST)
        else:
            q, s = round_tokens(x, own=own)
            total = self._product(q)
        return torch.addcmul(self._bias, total, s, out=total)

    def _product(self, q: Tensor) -> Tensor:
        """float32 [M, N]: q − 128 times the weights."""
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            q, 1.0, 128, self._packed, self._scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return out


class GpuLinear:
    """bfloat16 products with weights of any stored kind, held as int8 or bfloat16, in torch's own kernels."""

    def __init__(self, weight: Matrix, bias: Tensor, kind: str) -> None:
        self._scales: Tensor | None = None
        if kind == "int8":
            levels = weight if isinstance(weight, Int8Tensor) else quantize_int8(weight.float())
            self._weight, self._scales = levels.qweight.clone(), levels.scales.clone()
        else:
            wide = dequantize_int8(weight) if isinstance(weight, Int8Tensor) else weight
            self._weight = wide.clone() if wide.dtype == torch.bfloat16 else to_bfloat16(wide, name="weight")
        self._bias = bias if kind == "int8" else bias.to(torch.bfloat16)

    def __call__(self, x: Tensor, *, own: bool = False) -> Tensor:
        """x [M, K] → bfloat16 [M, N], float32 of int8 weights."""
        narrow = x.to(torch.bfloat16)
        if self._scales is None:
            return F.linear(narrow, self._weight, self._bias)
        total = F.linear(narrow, self._weight.to(torch.bfloat16))
        return torch.addcmul(self._bias, total.float(), self._scales)


def column_shares(gain: Tensor) -> Tensor | None:
    """Over how many equal columns each input channel is divided, int64 [K]; None if all stay whole.

    gain [K]: of the norm that makes the input. A channel much louder than the others would set the scale of every
    token; in r columns of x/r each, with the same weights, it takes r times less room, and the product is the same.
    Channels above twice the median gain are brought below it; where that would add more than an eighth to K, above
    a higher bound.
    """
    bound = 2 * gain.abs().median()
    if not float(bound) > 0:
        return None
    times = (gain.abs() / bound).ceil().clamp_min(1)
    while float(times.sum()) > gain.numel() * 1.125:
        bound = bound * 1.25
        times = (gain.abs() / bound).ceil().clamp_min(1)
    return times.long() if float(times.max()) > 1 else None


def round_tokens(x: Tensor, *, own: bool = False) -> tuple[Tensor, Tensor]:
    """x [M, K] to (q + 128 as uint8 [M, K], s float32 [M, 1]) with s = max|x| / 127 of each row.

    ``own``: x may be overwritten."""
    largest = torch.maximum(x.amax(1, keepdim=True), x.amin(1, keepdim=True).neg_())
    s = largest.float().clamp_min_(_TINY).div_(127.0)
    levels = x.div_(s) if own and x.dtype == torch.float32 else x.div(s)
    return levels.round_().to(torch.int8).view(torch.uint8).bitwise_xor_(128), s


def round_tokens_finely(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [M, K] to (uint8 [2M, K], s float32 [M, 1]): the rows of ``round_tokens``, then what they leave of x in steps
    of s / REST, both + 128."""
    q, s = round_tokens(x)
    left = x.float() - q.bitwise_xor(128).view(torch.int8).float() * s
    rest = left.mul_(REST).div_(s).round_().clamp_(-127.0, 127.0)
    return torch.cat([q, rest.to(torch.int8).view(torch.uint8).bitwise_xor_(128)]), s


def load_linear(
    source: WeightSource, how: Arithmetic, *stems: str, gain: Tensor | None = None, fine: bool = False
) -> Linear:
    """The layers ``stem.weight``, ``stem.bias`` of ``stems``, which read the same input, as one in arithmetic
    ``how``. ``gain``: of the norm that makes the input, if one does directly. ``fine``: of ``Int8Linear``."""
    names = [f"{stem}.weight" for stem in stems]
    weight, bias = matrix(source, names), torch.cat([vector(source, f"{stem}.bias") for stem in stems])
    out = _make_linear(weight, bias, how, gain, fine)
    if how.matrices != "float32" or len(names) > 1:  # a single float32 matrix stays a view of the file
        for name in names:
            source.release(name)
    return out


def _make_linear(weight: Matrix, bias: Tensor, how: Arithmetic, gain: Tensor | None, fine: bool) -> Linear:
    if how.matrices == "float32":
        return WidenedLinear(weight, bias)
    if how.on_gpu:
        return GpuLinear(weight, bias, how.matrices)
    return Int8Linear(weight, bias, gain, fine=fine) if how.matrices == "int8" else Bfloat16Linear(weight, bias)
