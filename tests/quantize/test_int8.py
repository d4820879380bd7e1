from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tinygptv_fast.errors import CheckpointError, InvalidArgumentError
from tinygptv_fast.quantize.bfloat16 import to_bfloat16
from tinygptv_fast.quantize.int8 import (
    Int8Tensor,
    dequantize_int8,
    quantize_int8,
    quantize_tokens_int8,
    quantized_linear_int8,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (17, 80), (300, 1408), (5000, 33)])
def test_each_weight_is_within_half_a_step_and_the_extreme_is_exact(shape: tuple[int, int]) -> None:
    w = normal(*shape)
    t = quantize_int8(w)
    stored = dequantize_int8(t)
    half_step = t.scales[:, None] / 2
    assert bool(((stored - w).abs() <= half_step * (1 + 1e-4)).all())
    assert int(t.qweight.abs().max(1).values.min()) == 127 and int(t.qweight.min()) >= -127
    assert t.error is not None and t.error.elements == w.numel()
    assert t.error.rmse == pytest.approx((stored - w).double().square().mean().sqrt().item())
    assert t.error.max_abs == pytest.approx((stored - w).abs().max().item())
    assert t.nbytes == w.numel() + 4 * shape[0]


def test_rmse_is_that_of_uniform_rounding() -> None:
    w = normal(512, 1408)
    t = quantize_int8(w)
    assert t.error is not None
    uniform = (t.scales.double().square().mean() / 12).sqrt().item()
    assert t.error.rmse == pytest.approx(uniform, rel=0.02)


def test_zero_tiny_and_huge_rows() -> None:
    w = torch.zeros(4, 8)
    w[1] = normal(8) * 1e-44  # float32 denormals: the scale itself may be 0
    w[2] = normal(8) * 1e38
    w[3, 0] = 1.0
    t = quantize_int8(w)
    stored = dequantize_int8(t)
    assert float(t.scales[0]) == 0 and bool((stored[0] == 0).all())
    assert bool(torch.isfinite(stored).all())
    assert float((stored[1] - w[1]).abs().max()) <= float(w[1].abs().max())
    assert float((stored[2] - w[2]).double().norm() / w[2].double().norm()) < 0.01
    assert float(stored[3, 0]) == pytest.approx(1.0, rel=1e-7)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite_raises_and_names_the_row(value: float) -> None:
    w = normal(9, 4)
    w[7, 3] = value
    with pytest.raises(CheckpointError, match=r"^head holds NaN or infinity in row 7"):
        quantize_int8(w, name="head")


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.zeros(2, 2).double(), torch.zeros(0, 2), [[1.0]]])
def test_bad_weight_raises(bad: object) -> None:
    with pytest.raises(InvalidArgumentError, match="weight is"):
        quantize_int8(bad)  # type: ignore[arg-type]


def test_parts_are_checked() -> None:
    q, s = torch.zeros(2, 3, dtype=torch.int8), torch.ones(2)
    for bad in ((q.float(), s), (q, s[:1]), (q, s.half()), (q[0], s)):
        with pytest.raises(InvalidArgumentError):
            Int8Tensor(*bad)
    with pytest.raises(CheckpointError, match="scales"):
        dequantize_int8(Int8Tensor(q, torch.tensor([1.0, math.nan])))


@pytest.mark.parametrize(("tokens", "k", "n"), [(1, 1, 1), (3, 7, 5), (6, 1408, 33), (2, 6144, 17)])
def test_linear_is_the_integer_product(tokens: int, k: int, n: int) -> None:
    x, w, bias = normal(tokens, k, seed=1) * 3, normal(n, k, seed=2), normal(n, seed=3)
    t = quantize_int8(w)
    q, s = quantize_tokens_int8(x)
    exact = np.matmul(q.numpy().astype(np.int64), t.qweight.numpy().astype(np.int64).T)
    assert abs(exact).max() < 2**31
    expected = torch.from_numpy(exact).float() * s[:, None] * t.scales + bias
    assert torch.equal(quantized_linear_int8(x, t, bias), expected)
    assert torch.equal(quantized_linear_int8(x.view(1, tokens, k), t)[0] + bias, expected)


def test_linear_is_close_to_float_and_rows_are_independent() -> None:
    x, w = normal(12, 1408, seed=4), normal(64, 1408, seed=5)
    t = quantize_int8(w)
    y = quantized_linear_int8(x, t)
    exact = x.double() @ w.double().t()
    # Both operands carry about s/sqrt(12) of rounding, s = max/127: 0.8 % of a Gaussian of 1408 samples each.
    assert float((y.double() - exact).norm() / exact.norm()) < 0.013
    for i in range(12):
        assert torch.equal(quantized_linear_int8(x[i : i + 1], t)[0], y[i])
    x[3] *= 1e4  # an outlier token does not disturb the others
    assert torch.equal(quantized_linear_int8(x, t)[4:], y[4:])
    x[3] = 0
    assert bool((quantized_linear_int8(x, t)[3] == 0).all())


def test_linear_shape_errors() -> None:
    t = quantize_int8(normal(4, 8))
    for x, bias in ((torch.zeros(2, 7), None), (torch.zeros(2, 8).half(), None), (torch.zeros(2, 8), torch.zeros(5))):
        with pytest.raises(InvalidArgumentError):
            quantized_linear_int8(x, t, bias)


def test_bfloat16_rounds_to_nearest_even() -> None:
    one = 1.0
    ulp = 2.0**-7
    values = torch.tensor([one + ulp / 2, one + 3 * ulp / 2, one + ulp / 2 + 2**-20, -one - ulp / 2, 0.0])
    assert to_bfloat16(values).tolist() == [one, one + 2 * ulp, one + ulp, -one, 0.0]
    w = normal(1000)
    bits = w.numpy().view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    assert np.array_equal(to_bfloat16(w).view(torch.int16).numpy().view(np.uint16), rounded)


def test_bfloat16_errors() -> None:
    with pytest.raises(CheckpointError, match="pos_embed holds NaN"):
        to_bfloat16(torch.tensor([math.nan]), name="pos_embed")
    with pytest.raises(CheckpointError, match="beyond bfloat16's range"):
        to_bfloat16(torch.tensor([3.4e38]))
    with pytest.raises(InvalidArgumentError):
        to_bfloat16(torch.tensor([1]))
