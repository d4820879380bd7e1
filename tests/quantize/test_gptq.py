"""int4 by GPTQ: against a slow twin in float64, against nearest levels, every format, hostile input."""

from __future__ import annotations

import pytest
import torch

from tinygptv_fast.errors import CheckpointError, InvalidArgumentError
from tinygptv_fast.quantize.gptq import DAMPING, quantize_int4_gptq
from tinygptv_fast.quantize.int4 import GROUP_SIZES, Int4Tensor, dequantize_int4, quantize_int4
from tinygptv_fast.quantize.int4_search import levels_of, search_asymmetric, search_symmetric


def normal(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def gram_of(columns: int, seed: int = 1) -> torch.Tensor:
    """Of inputs that go together: an eighth as many directions as columns, and noise."""
    few = normal(max(1, columns // 8), columns, seed)
    inputs = normal(512, few.shape[0], seed + 1) @ few + 0.3 * normal(512, columns, seed + 2)
    return inputs.T @ inputs


def loss(w: torch.Tensor, stored: Int4Tensor, gram: torch.Tensor) -> float:
    """Squared error of the products of ``gram``'s inputs, summed over rows."""
    off = (w - dequantize_int4(stored)).double()
    return float(((off @ gram.double()) * off).sum())


def twin(w: torch.Tensor, gram: torch.Tensor, group: int, symmetric: bool) -> torch.Tensor:
    """Stored values as the paper's section 3.1 has them before its speed-ups: the inverse is updated column by column
    by Gaussian elimination, and every later column at once takes over what this one lost. float64."""
    N, K = w.shape
    H = gram.double()
    inverse = torch.linalg.inv(H + torch.eye(K, dtype=torch.float64) * (DAMPING * H.diagonal().mean()))
    rest, out = w.double(), torch.empty(N, K, dtype=torch.float64)
    for k in range(K):
        if k % group == 0:
            block = torch.nn.functional.pad(rest[:, k : k + group], (0, max(0, k + group - K)))
            fit = (search_symmetric if symmetric else search_asymmetric)(block.float().T.contiguous())
        out[:, k] = (levels_of(rest[:, k][None].float(), fit.scale, fit.zero)[0] * fit.scale).double()
        error = (rest[:, k] - out[:, k]) / inverse[k, k]
        rest = rest - torch.outer(error, inverse[k])
        inverse = inverse - torch.outer(inverse[:, k], inverse[k]) / inverse[k, k]
    return out


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("group", "columns"), [(32, 96), (32, 75), (64, 160), (128, 130), (32, 7)])
def test_equals_the_slow_twin(group: int, columns: int, symmetric: bool) -> None:
    w, gram = normal(40, columns), gram_of(columns)
    stored = dequantize_int4(quantize_int4_gptq(w, gram, group, symmetric)).double()
    expected = twin(w, gram, group, symmetric)
    # A weight within float32's error of the middle between two levels may go the other way, and then the rest of its
    # row follows: rows are equal or not. Some 1e-5 of 40 x 160 middles make that less than one row in ten.
    equal = ((stored - expected).abs() <= 1e-4 * expected.abs().amax()).all(1)
    assert equal.float().mean() >= 0.9


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", GROUP_SIZES)
def test_without_anything_in_common_nearest_levels_are_best(group: int, symmetric: bool) -> None:
    w = normal(24, 200)
    mine, nearest = quantize_int4_gptq(w, 7.0 * torch.eye(200), group, symmetric), quantize_int4(w, group, symmetric)
    assert torch.equal(mine.qweight, nearest.qweight) and torch.equal(mine.scales, nearest.scales)
    assert (mine.zeros is None and nearest.zeros is None) or torch.equal(mine.zeros, nearest.zeros)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", GROUP_SIZES)
def test_products_lose_less_than_by_nearest_levels(group: int, symmetric: bool) -> None:
    w, gram = normal(64, 256), gram_of(256)
    mine = loss(w, quantize_int4_gptq(w, gram, group, symmetric), gram)
    assert mine < 0.5 * loss(w, quantize_int4(w, group, symmetric), gram)


def test_values_are_found_again_by_the_search() -> None:
    """So a model whose weights were rounded this way keeps them when it is converted."""
    rounded = quantize_int4_gptq(normal(256, 320), gram_of(320))
    again = quantize_int4(dequantize_int4(rounded))
    assert torch.equal(dequantize_int4(again), dequantize_int4(rounded))


def test_of_any_scale_and_either_precision() -> None:
    w, gram = normal(16, 64), gram_of(64)
    first = quantize_int4_gptq(w, gram)
    for other in (gram.double(), gram * 2.0**-20, gram * 2.0**20):
        assert torch.equal(quantize_int4_gptq(w, other).qweight, first.qweight)


def test_inputs_that_are_always_zero_are_no_trouble() -> None:
    w, gram = normal(16, 64), gram_of(64)
    gram[5], gram[:, 5] = 0.0, 0.0
    stored = dequantize_int4(quantize_int4_gptq(w, gram))
    assert bool(torch.isfinite(stored).all())
    # That column takes nothing over and hands nothing on: it has its nearest level.
    scale = quantize_int4_gptq(w, gram).scales[:, 0].float().abs()
    inside = (w[:, 5] / scale).abs() < 7
    assert bool(((stored[:, 5] - w[:, 5]).abs() <= 0.5001 * scale)[inside].all()) and int(inside.sum()) > 8


def test_its_arguments_stay_as_they_are() -> None:
    w, gram = normal(16, 64), gram_of(64)
    copies = w.clone(), gram.clone()
    quantize_int4_gptq(w, gram)
    assert torch.equal(w, copies[0]) and torch.equal(gram, copies[1])


@pytest.mark.parametrize(
    ("gram", "said"),
    [
        (torch.eye(63), r"gram is \[63, 63\] torch.float32, expected \[K, K\] = \[64, 64\]"),
        (torch.eye(64).half(), "torch.float16"),
        (torch.zeros(64, 64), "all 0"),
        (-torch.eye(64), "negative"),
        (torch.eye(64) * float("nan"), "not finite"),
        (torch.ones(64, 64) * 2 - torch.eye(64), "not positive definite"),
    ],
)
def test_no_sum_of_squares(gram: torch.Tensor, said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        quantize_int4_gptq(normal(8, 64), gram)


def test_bad_weights_and_settings() -> None:
    gram = torch.eye(64)
    w = normal(8, 64)
    with pytest.raises(InvalidArgumentError, match=r"damping is 0\.0"):
        quantize_int4_gptq(w, gram, damping=0.0)
    with pytest.raises(InvalidArgumentError, match="group_size is 16"):
        quantize_int4_gptq(w, gram, 16)
    with pytest.raises(InvalidArgumentError, match=r"fc1 is .*float64"):
        quantize_int4_gptq(w.double(), gram, name="fc1")
    w[3, 40] = float("nan")
    with pytest.raises(CheckpointError, match="fc1 holds NaN or infinity in row 3"):
        quantize_int4_gptq(w, gram, name="fc1")
    w[3, 40] = 1e6
    with pytest.raises(CheckpointError, match="fc1 row 3, group 1 needs"):
        quantize_int4_gptq(w, gram, name="fc1")
