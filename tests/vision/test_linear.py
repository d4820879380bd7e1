"""Each form of a linear layer against its oracle, with bounds from the roundings it makes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tinygptv_fast.errors import CheckpointError, UnsupportedError
from tinygptv_fast.quantize.int8 import Int8Tensor, quantize_int8, quantize_tokens_int8, quantized_linear_int8
from tinygptv_fast.vision.linear import (
    MAX_INT8_COLUMNS,
    REST,
    Bfloat16Linear,
    Int8Linear,
    WidenedLinear,
    column_shares,
    round_tokens,
    round_tokens_finely,
)
from tinygptv_fast.vision.source import matrix

from .conftest import MemorySource, needs

SHAPES = [(1, 1, 1), (3, 5, 17), (32, 48, 80), (65, 145, 64), (17, 63, 129), (40, 256, 1408), (5, 130, 6144)]
F32 = 2.0**-24
BF16 = 2.0**-8  # unit roundoff: 8 significant bits


def operands(M: int, N: int, K: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(M * 7919 + N * 31 + K)
    x = torch.randn(M, K, generator=generator) * scale
    x[0] *= 40  # one loud token must not cost the others anything
    return x, torch.randn(N, K, generator=generator) / K**0.5, torch.randn(N, generator=generator)


@needs("int8")
@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_its_reference(shape: tuple[int, int, int]) -> None:
    x, w, b = operands(*shape)
    packed = quantize_int8(w)
    expected, out = quantized_linear_int8(x, packed, b), Int8Linear(packed, b)(x)
    assert out.dtype == torch.float32
    # the integer sums are the same; conversion, two scales and the bias round four times, in another order
    size = (expected - b).abs() + b.abs()
    assert bool(((out - expected).abs() <= 8 * F32 * size).all()), float(((out - expected).abs() / size).max())


@needs("int8")
@pytest.mark.parametrize("shape", SHAPES)
def test_finely_rounded_activations_are_254_times_nearer(shape: tuple[int, int, int]) -> None:
    x, w, b = operands(*shape)
    packed = quantize_int8(w)
    wide = packed.qweight.double() * packed.scales.double()[:, None]
    exact = x.double() @ wide.T + b.double()
    out = Int8Linear(packed, b, fine=True)(x)
    assert out.dtype == torch.float32 and out.shape == exact.shape
    # What is left of each activation is at most half a step of s/254; what the first rounding left was known to some
    # roundings of x, which is at most 127 s. Sums are exact but for the conversions, two scales and the bias.
    s = x.abs().amax(1, keepdim=True).double() / 127
    left = s * (0.5 / REST + 4 * 127 * F32) * wide.abs().sum(1)
    size = x.double().abs() @ wide.abs().T + s * wide.abs().sum(1) + b.double().abs()
    assert bool(((out - exact).abs() <= left + 8 * F32 * size).all())
    plain = (Int8Linear(packed, b)(x) - exact).norm()
    assert shape[2] < 17 or (out - exact).norm() < plain / 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_roundings_of_a_token_add_up(dtype: torch.dtype) -> None:
    x = operands(33, 1, 1408)[0].to(dtype)
    x[5] = 0
    x[6, 3] = 3e38
    x[8] *= 1e-20
    q, s = round_tokens_finely(x)
    first, scales = round_tokens(x)
    assert torch.equal(q[:33], first) and torch.equal(s, scales)
    levels, rest = (q.double() - 128).chunk(2)
    assert float(rest.abs().max()) <= 127
    again = s.double() * (levels + rest / REST)
    known = 0.5 / REST + 4 * 127 * F32
    assert bool(((again - x.double()).abs() <= known * s.double() + 1e-30).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_are_rounded_as_the_reference_rounds_them(dtype: torch.dtype) -> None:
    x = operands(33, 1, 1408)[0].to(dtype)
    x[5] = 0
    x[6, 3] = 3e38
    x[7] = torch.arange(1408) % 7 - 3.0  # many ties
    x[8] *= 1e-20
    q, s = round_tokens(x)
    levels, scales = quantize_tokens_int8(x.float())
    nonzero = scales != 0
    assert torch.equal(s[nonzero, 0], scales[nonzero])
    assert torch.equal((q.int() - 128), levels.int())
    assert int(q[5].int().min()) == int(q[5].int().max()) == 128
    again, scales_again = round_tokens(x.clone(), own=True)
    assert torch.equal(again, q) and torch.equal(scales_again, s)


@needs("int8")
def test_int8_extremes_do_not_saturate() -> None:
    """All products at their largest, of either sign: 16-bit sums would saturate."""
    w = Int8Tensor(torch.full((32, 1024), 127, dtype=torch.int8), torch.ones(32))
    w.qweight[::2] = -127
    x = torch.full((16, 1024), 127.0)
    x[1::2] = -127.0
    out = Int8Linear(w, torch.zeros(32))(x)
    assert torch.equal(out, quantized_linear_int8(x, w))
    assert float(out.abs().min()) == 127.0 * 127 * 1024


@needs("bfloat16")
@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_within_its_roundings(shape: tuple[int, int, int]) -> None:
    x, w, b = operands(*shape)
    out = Bfloat16Linear(w, b)(x)
    assert out.dtype == torch.bfloat16
    exact = x.double() @ w.double().T + b
    size = x.double().abs() @ w.double().abs().T
    bound = (2 * BF16 + BF16**2 + shape[2] * F32) * size + BF16 * b.abs()
    bound = bound * (1 + BF16) + BF16 * exact.abs()  # and the result is rounded
    assert bool(((out - exact).abs() <= bound).all()), float(((out - exact).abs() / bound).max())


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "int8"])
def test_float32_on_any_stored_kind(stored: str) -> None:
    x, w, b = operands(33, 70, 129)
    held: Tensor | Int8Tensor = quantize_int8(w) if stored == "int8" else w.to(getattr(torch, stored))
    meant = held.qweight.double() * held.scales[:, None].double() if isinstance(held, Int8Tensor) else held.double()
    out = WidenedLinear(held, b)(x)
    bound = (129 + 3) * F32 * (x.double().abs() @ meant.abs().T + b.abs())
    assert out.dtype == torch.float32 and bool(((out - (x.double() @ meant.T + b)).abs() <= bound).all())


@needs("int8")
def test_a_row_does_not_depend_on_the_others() -> None:
    x, w, b = operands(65, 96, 264)
    layer = Int8Linear(quantize_int8(w), b)
    whole = layer(x)
    assert torch.equal(whole[10:11], layer(x[10:11])) and torch.equal(whole[3:40], layer(x[3:40]))


def test_too_many_columns_for_int32() -> None:
    weight = Int8Tensor(torch.ones(1, MAX_INT8_COLUMNS + 1, dtype=torch.int8), torch.ones(1))
    with pytest.raises(UnsupportedError, match="at most K=66311"):
        Int8Linear(weight, torch.zeros(1))


def test_matrices_read_together_must_be_of_one_kind(plain: dict[str, Tensor]) -> None:
    source = MemorySource(plain, "int8")
    with pytest.raises(CheckpointError, match=r"stored as \['float32', 'int8'\]"):
        matrix(source, ["projector.weight", "vision.patch_embed.weight"])
    names = [f"qformer.layers.0.self_attn.{part}.weight" for part in ("query", "key")]
    stacked = matrix(source, names)
    assert isinstance(stacked, Int8Tensor)
    assert torch.equal(stacked.qweight[192:], source.quantized(names[1]).qweight)
    assert torch.equal(stacked.scales[192:], source.quantized(names[1]).scales)


@needs("int8")
def test_loud_channels_are_divided_over_columns() -> None:
    generator = torch.Generator().manual_seed(0)
    gain = 1 + 0.1 * torch.randn(264, generator=generator)
    assert column_shares(gain) is None and column_shares(torch.zeros(264)) is None
    gain[7], gain[200] = 31.0, -9.0
    times = column_shares(gain)
    assert times is not None and int(times.sum()) <= 264 * 1.125
    assert (
        bool((times[[i for i in range(264) if i not in (7, 200)]] == 1).all()) and int(times[7]) > int(times[200]) > 1
    )
    x = torch.randn(33, 264, generator=generator) * gain
    w, b = torch.randn(90, 264, generator=generator) / 16, torch.randn(90, generator=generator)
    packed = quantize_int8(w)
    exact = x.double() @ (packed.qweight.double() * packed.scales[:, None].double()).T + b
    whole, divided = Int8Linear(packed, b)(x), Int8Linear(packed, b, gain)(x)
    # the scale of a token is smaller by the loudest channel's share, and so is the rounding, but for the channel itself
    assert float((divided - exact).norm()) < float((whole - exact).norm()) / 4
    untouched = x.clone()
    Int8Linear(packed, b, gain)(x, own=False)
    assert torch.equal(x, untouched)
