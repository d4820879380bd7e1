from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygptv_fast.errors import InvalidArgumentError
from tinygptv_fast.quantize.agreement import AgreementCounter, mean_kl, token_agreement, wilson_interval


def logits(positions: int, vocabulary: int, seed: int) -> torch.Tensor:
    return torch.randn(positions, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3


def test_wilson_interval_known_values() -> None:
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)  # Newcombe 1998, table I
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@settings(deadline=None)
@given(st.integers(1, 10_000), st.floats(0, 1))
def test_wilson_interval_holds_the_rate(trials: int, share: float) -> None:
    successes = round(share * trials)
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    assert high > low


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (2, 1), (-1, 3)])
def test_wilson_interval_bad_counts(successes: int, trials: int) -> None:
    with pytest.raises(InvalidArgumentError):
        wilson_interval(successes, trials)


def test_token_agreement_counts_answer_positions_only() -> None:
    reference = torch.eye(6)
    other = reference.clone()
    other[1] = torch.tensor([9.0, 0, 0, 0, 0, 0])
    other[4] = torch.tensor([9.0, 0, 0, 0, 0, 0])
    assert token_agreement(reference, other).value == pytest.approx(4 / 6)
    mask = torch.tensor([False, True, True, True, False, False])
    estimate = token_agreement(reference, other, mask)
    assert estimate.value == pytest.approx(2 / 3) and estimate.positions == 3
    assert (estimate.low, estimate.high) == wilson_interval(2, 3)


def test_kl_matches_the_definition_and_is_zero_for_equal_logits() -> None:
    reference, other = logits(150, 40, 1), logits(150, 40, 2)
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    each = (p * (p / q).log()).sum(-1)
    estimate = mean_kl(reference, other)
    assert estimate.value == pytest.approx(each.mean().item(), rel=1e-12)
    half = 1.959964 * each.std().item() / math.sqrt(150)
    assert (estimate.low, estimate.high) == pytest.approx(
        (each.mean().item() - half, each.mean().item() + half), rel=1e-6
    )
    same = mean_kl(reference, reference + 5.0)  # a constant shifts no probability
    assert same.value == pytest.approx(0.0, abs=1e-12) and same.low >= 0


def test_counter_over_prompts_equals_one_update() -> None:
    reference, other = logits(90, 30, 3), logits(90, 30, 3) + logits(90, 30, 4) / 4
    whole, parts = AgreementCounter(), AgreementCounter()
    whole.update(reference, other)
    for start in (0, 1, 50):
        stop = {0: 1, 1: 50, 50: 90}[start]
        parts.update(reference[start:stop].numpy(), other[start:stop].numpy())
    assert whole.tokens() == parts.tokens()
    assert whole.kl() == pytest.approx(parts.kl(), rel=1e-12)
    assert whole.to_dict()["positions"] == 90


def test_masked_tokens_and_one_position() -> None:
    reference, other = logits(1, 5, 5), logits(1, 5, 6)
    reference[0, 2] = other[0, 2] = -math.inf
    counter = AgreementCounter()
    counter.update(reference, other, np.array([True]))
    assert math.isfinite(counter.kl().value) and counter.kl().high == math.inf
    assert counter.to_dict()["kl_nats_95"][1] is None
    other[0, 3] = -math.inf
    with pytest.raises(InvalidArgumentError, match="-infinity"):
        mean_kl(reference, other)


def test_bad_arguments() -> None:
    good = logits(3, 4, 7)
    for reference, other, mask, match in (
        (good, good[:2], None, "quantized_logits"),
        (good[0], good[0], None, "reference_logits"),
        (good.int(), good, None, "reference_logits"),
        (good, good * math.nan, None, "NaN"),
        (good, good, torch.ones(3), "answer_mask"),
        (good, good, torch.ones(2, dtype=torch.bool), "answer_mask"),
        (good, good, torch.zeros(3, dtype=torch.bool), "no positions"),
    ):
        with pytest.raises(InvalidArgumentError, match=match):
            token_agreement(reference, other, mask)
