"""int4: error limits, optimality against brute force, every size, hostile values. The native twin has its own file."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygptv_fast.errors import CheckpointError, InvalidArgumentError
from tinygptv_fast.quantize.int4 import GROUP_SIZES, Int4Tensor, dequantize_int4, quantize_int4
from tinygptv_fast.quantize.packing import unpack_nibbles

# Root mean square error on N(0,1) weights that the format must reach, per group size.
LIMITS = {
    True: {32: 0.0815, 64: 0.0903, 128: 0.0973},
    False: {32: 0.0775, 64: 0.0875, 128: 0.0955},
}
Q4_0 = {32: 0.0859, 64: 0.0949, 128: 0.1032}
HALF_EPS = 2.0**-11  # rounding to float16, relative


def normal(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def q4_0(w: torch.Tensor, group: int) -> torch.Tensor:
    """What llama.cpp's Q4_0 rule makes of w [N, K], K a multiple of group: s = signed extreme / -8, in float16."""
    g = w.view(-1, group)
    extreme = g.gather(1, g.abs().argmax(1, keepdim=True))
    scale = extreme / -8
    inverse = torch.where(scale == 0, 0.0, 1 / scale)
    q = (g * inverse + 8.5).floor().clamp(0, 15)
    return ((q - 8) * scale.half().float()).view_as(w)


def group_errors(w: torch.Tensor, stored: torch.Tensor, group: int) -> torch.Tensor:
    return (w - stored).double().square().view(w.shape[0], -1, group).sum(-1)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", GROUP_SIZES)
def test_rmse_on_normal_weights(group: int, symmetric: bool) -> None:
    w = normal(512, 2048)
    t = quantize_int4(w, group, symmetric)
    rmse = (dequantize_int4(t) - w).double().square().mean().sqrt().item()
    # One million samples: the rmse's own standard error is below 0.1 %, the margin to the limit above 0.5 %.
    assert rmse <= LIMITS[symmetric][group]
    assert t.error is not None
    assert t.error.rmse == pytest.approx(rmse, rel=1e-6)
    assert t.error.relative_l2 == pytest.approx((dequantize_int4(t) - w).norm().item() / w.norm().item(), rel=1e-5)
    assert t.error.max_abs == (dequantize_int4(t) - w).abs().max().item()


@pytest.mark.parametrize("group", GROUP_SIZES)
def test_q4_0_rule_as_printed_by_the_benchmark(group: int) -> None:
    w = normal(512, 2048)
    rmse = (q4_0(w, group) - w).double().square().mean().sqrt().item()
    assert rmse == pytest.approx(Q4_0[group], rel=0.005)


@pytest.mark.parametrize("group", GROUP_SIZES)
@pytest.mark.parametrize("draw", ["normal", "outliers", "laplace", "uniform"])
def test_no_group_is_worse_than_q4_0_and_asymmetric_no_worse_than_symmetric(group: int, draw: str) -> None:
    w = normal(64, 1024, seed=1)
    if draw == "outliers":
        w[:, ::97] *= 100
    elif draw == "laplace":
        w = w.sign() * -torch.log1p(-torch.erf(w.abs() / math.sqrt(2)).clamp_max(0.999999))
    elif draw == "uniform":
        w = torch.erf(w)
    ours = group_errors(w, dequantize_int4(quantize_int4(w, group)), group)
    asymmetric = group_errors(w, dequantize_int4(quantize_int4(w, group, symmetric=False)), group)
    theirs = group_errors(w, q4_0(w, group), group)
    # Errors are compared inside the search as float32 sums of G terms.
    slack = 1 + 2 * group * 2.0**-24
    assert bool((ours <= theirs * slack).all())
    assert bool((asymmetric <= ours * slack).all())


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
def test_close_to_the_best_of_all_float16_scales(count: int) -> None:
    """Against brute force over every finite float16 scale, both signs.

    With the best scale s* and its levels p*, E(s, p*) = E* + (s − s*)²Σp*² for any s, and nearest levels only lower
    it. Scales with |p*| <= 3 may be halved, so some s* is within half a step of the grid: |s − s*| <= a/512 below
    a·38/256 and a/256 above, plus float16 rounding.
    """
    w = normal(40, count, seed=count)
    bits = torch.arange(1, 0x7C00, dtype=torch.int16)
    positive = bits.view(torch.float16).float()
    scales = torch.cat([positive, -positive])
    stored = dequantize_int4(quantize_int4(w))
    for row, ours in zip(w, stored, strict=True):
        levels = (row[None] / scales[:, None]).round().clamp(-8, 7)
        errors = (row[None] - levels * scales[:, None]).double().square().sum(1)
        best = int(errors.argmin())
        top = float(levels[best].abs().max())
        p2 = float((levels[best] * (2 ** math.floor(math.log2(8 / top)))).square().sum())
        a = float(row.abs().max())
        slack = (a / 256 + a / 4 * HALF_EPS) ** 2 * p2
        assert float((row - ours).double().square().sum()) <= float(errors[best]) + slack


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("columns", [*range(1, 18), 31, 32, 33, 47, 63, 64, 65, 80, 96, 127, 128, 129, 255, 257])
def test_every_size_and_short_groups(columns: int, symmetric: bool) -> None:
    w = normal(3, columns, seed=columns)
    for group in GROUP_SIZES:
        t = quantize_int4(w, group, symmetric)
        groups = -(-columns // group)
        assert t.qweight.shape == (3, (columns + 1) // 2) and t.scales.shape == (3, groups)
        assert (t.zeros is None) == symmetric
        stored = dequantize_int4(t)
        assert stored.shape == w.shape
        # A short group is quantised as if zeros followed: the same bytes as the padded matrix gives.
        padded = torch.nn.functional.pad(w, (0, groups * group - columns))
        assert torch.equal(dequantize_int4(quantize_int4(padded, group, symmetric))[:, :columns], stored)
        if columns % 2:  # the pad nibble is the last group's zero: its value is 0
            last = 8 if t.zeros is None else unpack_nibbles(t.zeros, groups)[:, -1]
            assert bool((t.qweight[:, -1] >> 4 == last).all())


@pytest.mark.parametrize("rows", [*range(1, 18), 33])
def test_rows_do_not_depend_on_each_other(rows: int) -> None:
    w = normal(rows, 80, seed=rows)
    for symmetric in (True, False):
        whole = dequantize_int4(quantize_int4(w, 32, symmetric))
        for r in range(rows):
            assert torch.equal(dequantize_int4(quantize_int4(w[r : r + 1], 32, symmetric))[0], whole[r])


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), st.integers(1, 70), st.sampled_from(GROUP_SIZES), st.booleans(), st.integers(0, 2**31 - 1))
def test_weights_that_int4_can_hold_stay_close(rows: int, columns: int, group: int, symmetric: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    p = torch.randint(-8, 8, (rows, columns), generator=generator).float()
    w = p * (torch.randint(1024, 2048, (rows, 1), generator=generator) * 2.0**-15)  # any 11-bit scale
    error = quantize_int4(w, group, symmetric).error
    # w = p·s with max|p| = m in 4..8 (smaller levels can be doubled): the grid has a scale within max|w|/512 of s, or
    # max|w|/256 above 37/256, and there the right levels are off by that over s = max|w|/m, at most 7/256 relative.
    assert error is not None and error.relative_l2 <= 7 / 256 + HALF_EPS


def test_requantising_full_groups_loses_nothing() -> None:
    for group in GROUP_SIZES:
        once = quantize_int4(normal(64, 1024, seed=group), group)
        again = quantize_int4(dequantize_int4(once), group).error
        assert again is not None and again.squared_error == 0.0


@pytest.mark.parametrize("symmetric", [True, False])
def test_zero_groups_stay_zero(symmetric: bool) -> None:
    w = normal(2, 128)
    w[:, 32:64] = 0
    w[1] = 0
    t = quantize_int4(w, 32, symmetric)
    stored = dequantize_int4(t)
    assert bool((stored[:, 32:64] == 0).all()) and bool((stored[1] == 0).all())
    assert bool((t.scales[1] == 0).all())
    assert bool((stored[0, :32] != 0).any())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("value", [1.0, -1.0, 0.3, -7.7, 1e-4, 6e4, -4e5])
def test_constant_groups(value: float, symmetric: bool) -> None:
    stored = dequantize_int4(quantize_int4(torch.full((2, 96), value), 32, symmetric))
    # Some level p <= 8 times a float16 scale: off by half a unit in the scale's last place, 2^-25 when it is denormal.
    assert float((stored - value).abs().max()) <= max(abs(value) * HALF_EPS, 8 * 2.0**-25)


@pytest.mark.parametrize("symmetric", [True, False])
def test_denormal_scales(symmetric: bool) -> None:
    w = normal(4, 64) * 1e-6  # scales near 4e-7, a few units of float16's denormal step 6e-8
    t = quantize_int4(w, 32, symmetric)
    assert bool((t.scales != 0).all())
    error = group_errors(w, dequantize_int4(t), 32)
    assert bool((error <= w.double().square().view(4, -1, 32).sum(-1) * 0.05).all())
    tiny = quantize_int4(w * 1e-6, 32, symmetric)  # far below half the smallest float16: zero, and the record says so
    assert bool((dequantize_int4(tiny) == 0).all()) and tiny.error is not None
    assert tiny.error.relative_l2 == pytest.approx(1.0)


@pytest.mark.parametrize("symmetric", [True, False])
def test_outliers_times_100(symmetric: bool) -> None:
    w = normal(16, 512)
    w[:, ::50] *= 100
    stored = dequantize_int4(quantize_int4(w, 32, symmetric))
    assert (stored - w).norm() / w.norm() < 0.06  # a group of one large value and 31 small ones keeps the large one
    plain = [g for g in range(512 // 32) if not any(c % 50 == 0 for c in range(32 * g, 32 * g + 32))]
    view = (stored - w).view(16, -1, 32)[:, plain]
    assert view.double().square().mean().sqrt() < 0.09  # and groups without one do not notice


def test_largest_scale_and_beyond() -> None:
    w = torch.zeros(3, 64)
    w[2, 40] = 65504.0 * 8
    assert dequantize_int4(quantize_int4(w))[2, 40] == 65504.0 * 8
    w[2, 40] = torch.nextafter(torch.tensor(65504.0 * 8), torch.tensor(math.inf))
    with pytest.raises(CheckpointError, match=r"fc1\.weight row 2, group 1 needs an int4 scale above 65504"):
        quantize_int4(w, name="fc1.weight")
    w[2, 40] = 65504.0 * 15
    assert dequantize_int4(quantize_int4(w, symmetric=False))[2, 40] == 65504.0 * 15
    w[2, 41] = -65504.0
    with pytest.raises(CheckpointError, match="row 2, group 1"):
        quantize_int4(w, symmetric=False)
    for huge in (1e30, 3.4e38):
        w[2, 40], w[2, 41] = huge, -huge
        for symmetric in (True, False):
            with pytest.raises(CheckpointError, match="row 2, group 1"):
                quantize_int4(w, symmetric=symmetric)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("symmetric", [True, False])
def test_not_finite_raises_and_names_the_row(value: float, symmetric: bool) -> None:
    w = normal(7, 80)
    w[5, 79] = value
    with pytest.raises(CheckpointError, match=r"^layer holds NaN or infinity in row 5"):
        quantize_int4(w, symmetric=symmetric, name="layer")


@pytest.mark.parametrize(
    "bad",
    [torch.zeros(4), torch.zeros(2, 3, 4), torch.zeros(2, 2).half(), torch.zeros(0, 4), torch.zeros(4, 0), "w"],
    ids=["rank 1", "rank 3", "half", "no rows", "no columns", "not a tensor"],
)
def test_bad_weight_raises(bad: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"w is .*expected \[N, K\]"):
        quantize_int4(bad, name="w")  # type: ignore[arg-type]


@pytest.mark.parametrize("group", [0, -32, 16, 33, 256, 32.0, True, None])
def test_bad_group_size_raises(group: object) -> None:
    with pytest.raises(InvalidArgumentError, match="group_size"):
        quantize_int4(torch.zeros(1, 4), group)  # type: ignore[arg-type]


def test_strided_and_gradient_carrying_weights() -> None:
    w = normal(64, 48)
    expected = dequantize_int4(quantize_int4(w))
    assert torch.equal(dequantize_int4(quantize_int4(w.t().contiguous().t())), expected)
    assert torch.equal(dequantize_int4(quantize_int4(torch.nn.Parameter(w))), expected)
    kept = w.clone()
    quantize_int4(w)
    assert torch.equal(w, kept)


def test_tensor_parts_are_checked() -> None:
    good = quantize_int4(normal(2, 33), 32, symmetric=False)
    parts = {"qweight": good.qweight, "scales": good.scales, "zeros": good.zeros, "columns": 33, "group_size": 32}
    assert Int4Tensor(**parts).nbytes == 2 * 17 + 2 * 2 * 2 + 2 * 1
    for name, wrong in (
        ("qweight", good.qweight[:, :-1]),
        ("qweight", good.qweight.to(torch.int8)),
        ("scales", good.scales.float()),
        ("scales", good.scales[:1]),
        ("zeros", good.zeros[:, :0]),
        ("columns", 0),
        ("group_size", 48),
    ):
        with pytest.raises(InvalidArgumentError, match=name):
            Int4Tensor(**{**parts, name: wrong})
    for value in (math.nan, math.inf):
        scales = good.scales.clone()
        scales[1, 0] = value
        with pytest.raises(CheckpointError, match="scales"):
            dequantize_int4(Int4Tensor(**{**parts, "scales": scales}))
