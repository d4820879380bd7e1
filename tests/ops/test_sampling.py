"""Sampling: the same tokens as the twin on every instruction set; the distribution; log-probabilities; errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygptv_fast as tgv
from tinygptv_fast import _native
from tinygptv_fast.errors import InvalidArgumentError, UnsupportedError
from tinygptv_fast.ops import log_softmax, sample, top_logprobs
from tinygptv_fast.reference import sampling as twin
from tinygptv_fast.reference import warpers

pytestmark = pytest.mark.native

HERE = _native.isas()
UNIT = 2.0**-24
VOCABS = [*range(1, 18), 31, 32, 33, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025, 1039, 1040, 1041, 2049, 5000]


def row(vocab: int, seed: int = 0, scale: float = 3.0, steps: int = 0) -> torch.Tensor:
    """Random logits; with ``steps`` rounded to multiples of 1/steps, so that some are equal."""
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * scale
    return (logits * steps).round() / steps if steps else logits


def on_every_isa(logits: torch.Tensor, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[int, float, bool]:
    results = []
    for isa in HERE:
        monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
        results.append(tuple(sample(logits, **options)))
        assert repr(results[0]) == repr(results[-1]), isa  # repr: NaN equals itself
    return results[0]  # type: ignore[return-value]


def logprob_bounds(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """float64 log-softmax of a row and how far float32 may be: 24 units for the sum, then three roundings."""
    x = logits.double()
    truth, peak = x.log_softmax(-1), x.max()
    normalizer = x.logsumexp(-1)
    return truth, UNIT * (25 + (x - peak).abs() + (normalizer - peak).abs() + truth.abs())


def check(logits: torch.Tensor, monkeypatch: pytest.MonkeyPatch, **options: Any) -> int:
    """The token, equal to the twin's on all instruction sets, with a log-probability within its bound."""
    chosen, logprob, finite = on_every_isa(logits, monkeypatch, **options)
    wanted = twin.sample(logits, **options)
    assert (chosen, finite) == (wanted[0], wanted[2]), options
    truth, bound = logprob_bounds(logits)
    if logits[chosen] > -math.inf:
        assert abs(logprob - float(truth[chosen])) <= float(bound[chosen])
    return chosen


# --- the generator and the exponential --------------------------------------------------------------------------------
def test_philox_known_answers() -> None:
    """The vectors of the authors' own test."""
    ones, pi = 0xFFFFFFFF, [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]
    assert twin.philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert twin.philox([ones] * 4, [ones] * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    assert twin.philox(pi, [0xA4093822, 0x299F31D0]) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def test_the_exponential() -> None:
    """Within 2.5 units over its range, on a grid finer than any logits; what sampling.h's error bound rests on."""
    x = np.concatenate([-np.linspace(0, 87, 3_000_001), -np.logspace(-30, 0, 100_001)]).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    assert np.abs(twin.exp_of_negative(x) / exact - 1).max() <= 2.5 * UNIT
    assert twin.exp_of_negative(np.float32([0, -87.1, -1e30, -np.inf])).tolist() == [1, 0, 0, 0]


# --- greedy, log-probabilities ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("vocab", [*VOCABS, 51200])
def test_greedy(vocab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(3):
        logits = row(vocab, seed, steps=4)
        assert check(logits, monkeypatch) == int((logits == logits.max()).nonzero()[0])
        for place in {0, vocab // 2, vocab - 1}:
            peaked = logits.clone()
            peaked[place] = 100
            assert check(peaked, monkeypatch) == place


@pytest.mark.parametrize("vocab", [*VOCABS, 51200, 200_001])
def test_log_softmax(vocab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.stack([row(vocab, 1), row(vocab, 2, 30), torch.zeros(vocab), row(vocab, 3) - 3e38])
    results = []
    for isa in HERE:
        monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
        results.append(log_softmax(logits))
        assert torch.equal(results[0], results[-1])
        for line, y in zip(logits, results[-1], strict=True):
            assert torch.equal(log_softmax(line[None])[0], y)
            token = sample(line)
            assert token.logprob == y[token.id]
            truth, bound = logprob_bounds(line)
            assert bool(((y.double() - truth).abs() <= bound).all())


def test_log_softmax_of_infinite_logits() -> None:
    logits = row(70)
    logits[3] = -torch.inf
    y = log_softmax(logits[None])[0]
    assert y[3] == -torch.inf and torch.allclose(y, logits.log_softmax(-1))
    for bad in (torch.nan, torch.inf):
        for place in (0, 64, 69):
            logits = row(70)
            logits[place] = bad
            assert bool(log_softmax(logits[None]).isnan().all())
    assert bool(log_softmax(torch.full((1, 5), -torch.inf)).isnan().all())


def test_log_softmax_in_place() -> None:
    logits = row(300).view(3, 100)
    expected, copy = log_softmax(logits), logits.clone()
    assert log_softmax(copy, out=copy) is copy and torch.equal(copy, expected)
    assert log_softmax(torch.empty(0, 5)).shape == (0, 5)


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("steps", [0, 2])
def test_top_logprobs(isa: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
    for vocab in VOCABS:
        logits = row(vocab, vocab, steps=steps)
        for n in sorted({1, min(vocab, 20), vocab // 2 + 1, vocab}):
            ids, logprobs = top_logprobs(logits, n)
            wanted = tgv.reference.top_logprobs(logits, n)
            assert torch.equal(ids, wanted[0])
            assert torch.equal(logprobs, log_softmax(logits[None])[0, ids.long()])
    logits[7] = torch.nan
    ids, logprobs = top_logprobs(logits, 3)
    assert ids.tolist() == [-1] * 3 and bool(logprobs.isnan().all())


# --- draws: the twin's tokens, exactly --------------------------------------------------------------------------------
@pytest.mark.parametrize("vocab", VOCABS)
@pytest.mark.parametrize(
    "filters",
    [
        {}, {"top_k": 1}, {"top_k": 5}, {"top_k": 100}, {"top_k": 10**6}, {"top_p": 0.9}, {"top_p": 0.01},
        {"top_p": 0.999999}, {"min_p": 0.1}, {"min_p": 1.0}, {"top_p": 0.8, "min_p": 0.3},
        {"top_k": 40, "top_p": 0.7}, {"top_k": 40, "top_p": 0.7, "min_p": 0.05},
    ],
)  # fmt: skip
def test_the_twins_tokens(vocab: int, filters: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(4):
        logits = row(vocab, seed, steps=(0, 3)[seed % 2])
        check(logits, monkeypatch, temperature=0.9, seed=seed, position=vocab, sample=seed, **filters)


@settings(deadline=None, max_examples=300)
@given(
    vocab=st.integers(1, 3000), steps=st.sampled_from([0, 1, 8]), scale=st.sampled_from([0.0, 0.5, 3.0, 40.0]),
    temperature=st.sampled_from([0.0, 1e-45, 1e-6, 0.3, 1.0, 7.0, 3e38]),
    top_k=st.sampled_from([0, 1, 3, 50, 1000]), top_p=st.floats(2.0**-20, 1, width=32),
    min_p=st.sampled_from([0.0, 1e-4, 0.2, 1.0]), repetition_penalty=st.sampled_from([1.0, 1.3, 0.5]),
    presence_penalty=st.sampled_from([0.0, 0.7, -2.0]), frequency_penalty=st.sampled_from([0.0, 0.3, -0.1]),
    isa=st.sampled_from(HERE), seed=st.integers(0, 2**64 - 1), position=st.integers(0, 2**63 - 1),
    number=st.integers(0, 2**32 - 1), data=st.data(),
)  # fmt: skip
def test_any_parameters(
    vocab: int, steps: int, scale: float, isa: str, seed: int, position: int, number: int, data: Any, **options: Any
) -> None:
    ids = st.integers(0, vocab - 1)
    options["history"] = data.draw(st.lists(ids, max_size=30))
    options["banned"] = data.draw(st.lists(ids, max_size=3))
    options["logit_bias"] = data.draw(st.dictionaries(ids, st.floats(-50, 50, width=32), max_size=3))
    logits = row(vocab, seed % 1000, scale, steps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYGPTV_CPU_ISA", isa)
        got = sample(logits, seed=seed, position=position, sample=number, **options)
    wanted = twin.sample(logits, seed=seed, position=position, sample=number, **options)
    assert (got.id, got.finite) == (wanted[0], wanted[2])


@pytest.mark.parametrize("filters", [{}, {"top_k": 50}, {"top_k": 900}, {"top_k": 5000}, {"top_p": 0.9},
                                     {"top_p": 0.3, "min_p": 0.01}, {"top_k": 300, "top_p": 0.95}])  # fmt: skip
@pytest.mark.parametrize("scale", [0.0, 2.5, 12.0])
def test_a_whole_vocabulary(scale: float, filters: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    logits = row(51200, 1, scale)
    for position in range(3):
        check(logits, monkeypatch, temperature=0.8, seed=11, position=position, **filters)


def test_scratch_of_an_earlier_call_is_not_read() -> None:
    options: dict[str, Any] = {"temperature": 1.0, "top_p": 0.9, "repetition_penalty": 1.2, "history": [1, 2, 2]}
    logits = row(500)
    first = sample(logits, **options)
    sample(row(4000) * 9, **options)
    assert sample(logits, **options) == first


def test_logits_are_not_modified() -> None:
    logits = row(300)
    before = logits.clone()
    sample(logits, temperature=1.0, top_p=0.5, banned=[1], history=[2], repetition_penalty=2.0, logit_bias={4: 1.0})
    top_logprobs(logits, 5)
    assert torch.equal(logits, before)


# --- the filters are those of Hugging Face, the distribution is the softmax of what they leave ------------------------
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("k", "p", "m"), [(0, 1, 0), (7, 1, 0), (0, 0.6, 0), (0, 1, 0.1), (60, 0.9, 0.02), (3, 0.5, 0.5)]
)
def test_weights_are_the_warpers_probabilities(seed: int, k: int, p: float, m: float) -> None:
    """The kept ids are the same, and the weights their softmax; ids within rounding of a limit do not occur here."""
    logits = row(400, seed)
    scores = warpers.temperature(logits[None].double(), 1.7)
    scores = warpers.top_k(scores, k) if k else scores
    scores = warpers.top_p(scores, p) if p < 1 else scores
    scores = warpers.min_p(scores, m) if m else scores
    probabilities = scores.softmax(-1)[0].numpy()
    weights = twin.weights_of(logits.numpy(), temperature=1.7, top_k=k, top_p=float(p), min_p=float(m))
    assert np.array_equal(weights > 0, probabilities > 0)
    # Ten units: exp, its argument (|x - max| < 16 here, divided by 1.7: three roundings) and the sum of all.
    assert np.allclose(weights / int(weights.sum()), probabilities, rtol=64 * UNIT, atol=2.0**-40)


def test_penalties_are_the_warpers() -> None:
    logits, history = row(50), [3, 3, 9, 40]
    got = twin.process(logits.numpy(), repetition_penalty=1.3, banned=[7], history=history)
    wanted = warpers.repetition_penalty(logits[None], torch.tensor([history]), float(np.float32(1.3)))
    assert torch.equal(torch.from_numpy(got), warpers.forbid(wanted, [7])[0])


def chi_square_is_plausible(counts: np.ndarray, expected: np.ndarray) -> bool:
    """Whether χ² stays below its 0.9999 quantile (Wilson and Hilferty); expectations below 5 are put together."""
    rare = expected < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    freedom = len(wanted) - 1
    statistic = float(((observed - wanted) ** 2 / wanted).sum())
    spread = 2 / (9 * freedom)
    return statistic <= freedom * (1 - spread + 3.719 * spread**0.5) ** 3


@pytest.mark.parametrize("filters", [{}, {"top_k": 12}, {"top_p": 0.8}, {"min_p": 0.05}])
def test_the_distribution_of_draws(filters: dict[str, Any]) -> None:
    """20,000 tokens at consecutive positions of one seed follow the filtered softmax; so do those over samples."""
    logits, draws = row(60, 5, 1.5), 20_000
    scores = logits[None].double() / 0.9
    for name, value in filters.items():
        scores = getattr(warpers, name)(scores, value)
    expected = scores.softmax(-1)[0].numpy() * draws
    for counter in ("position", "sample"):
        ids = [sample(logits, temperature=0.9, seed=2024, **{counter: i}, **filters).id for i in range(draws)]
        counts = np.bincount(ids, minlength=60)
        assert counts[expected == 0].sum() == 0
        assert chi_square_is_plausible(counts, expected)
        assert not chi_square_is_plausible(counts, np.roll(expected, 1)) or expected.max() == expected.min()


def test_seed_position_and_sample_all_count() -> None:
    logits = torch.zeros(4096)
    base = sample(logits, temperature=1.0).id
    for changed in ({"seed": 1}, {"seed": 2**40}, {"position": 1}, {"position": 2**40}, {"sample": 1}):
        assert sample(logits, temperature=1.0, **changed).id != base


# --- rows without a token ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("vocab", [1, 17, 1024, 1041])
def test_logits_that_are_not_finite(bad: float, vocab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in {0, vocab // 2, vocab - 1}:
        for temperature in (0.0, 1.0):
            logits = row(vocab)
            logits[place] = bad
            chosen, logprob, finite = on_every_isa(logits, monkeypatch, temperature=temperature, banned=[place])
            assert (chosen, finite) == (-1, False) and math.isnan(logprob)


def test_nothing_left(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_every_isa(torch.full((20,), -torch.inf), monkeypatch)[::2] == (-1, False)
    assert on_every_isa(row(3), monkeypatch, banned=[0, 1, 2], temperature=1.0)[::2] == (-1, False)


def test_huge_numbers_do_not_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.tensor([1.0, 3e38, -3e38, 2e38, -torch.inf])
    for options in (
        {"repetition_penalty": 0.01, "history": [1, 2, 3]}, {"logit_bias": {1: 3e38, 3: 3e38}},
        {"temperature": 1e-45}, {"temperature": 3e38, "top_p": 0.5}, {"temperature": 1e-3, "top_k": 2},
    ):  # fmt: skip
        chosen, _, finite = on_every_isa(logits, monkeypatch, **options)
        assert finite and chosen == twin.sample(logits, **options)[0]


# --- errors, torch ----------------------------------------------------------------------------------------------------
LOGITS = row(40)
BAD: list[tuple[str, Any, str]] = [
    ("logits", row(40)[None], r"logits is \[1,40\] f32, expected \[V\] f32"),
    ("logits", torch.empty(0), "the vocabulary is 0 ids"),
    ("logits", torch.zeros(1).expand(2**22 + 1), "strided"),
    ("logits", row(40).double(), "float64"),
    ("logits", row(80)[::2], "strided"),
    ("logits", row(40).to("meta"), "on meta"),
    ("logits", [1.0], "logits is list"),
    ("temperature", -0.1, "temperature is -0.1"),
    ("temperature", float("nan"), "temperature is nan"),
    ("temperature", float("inf"), "temperature is inf"),
    ("temperature", "1", "temperature is '1', expected a number"),
    ("temperature", None, "temperature is None"),
    ("top_k", -1, "top_k is -1"),
    ("top_k", 1.0, "top_k is 1.0, expected an integer"),
    ("top_k", 2**63, "top_k is 9223372036854775808"),
    ("top_p", 0.0, "top_p is 0"),
    ("top_p", 1.01, "top_p is 1.01"),
    ("top_p", float("nan"), "top_p is nan"),
    ("min_p", -0.1, "min_p is -0.1"),
    ("min_p", 1.5, "min_p is 1.5"),
    ("repetition_penalty", 0.0, "repetition_penalty is 0"),
    ("repetition_penalty", -1.0, "repetition_penalty is -1"),
    ("repetition_penalty", float("inf"), "repetition_penalty is inf"),
    ("presence_penalty", float("nan"), "presence_penalty is nan"),
    ("presence_penalty", 101.0, "presence_penalty is 101"),
    ("frequency_penalty", -101.0, "frequency_penalty is -101"),
    ("frequency_penalty", True, "frequency_penalty is True"),
    ("logit_bias", {40: 1.0}, r"logit_bias\[0\] is for id 40, expected 0\.\.39"),
    ("logit_bias", {-1: 1.0}, "is for id -1"),
    ("logit_bias", {1: 1.0, 2: float("inf")}, r"logit_bias\[1\] of id 2 is inf"),
    ("logit_bias", {1: "x"}, "logit_bias is 'x'"),
    ("logit_bias", {1.5: 1.0}, "logit_bias id is 1.5"),
    ("banned", [1, 40], r"banned\[1\] is 40, expected 0\.\.39"),
    ("banned", [-1], "is -1"),
    ("banned", [2**31], "banned id is 2147483648"),
    ("history", [40], r"history\[0\] is 40, expected 0\.\.39"),
    ("history", [0, -1], r"history\[1\] is -1"),
    ("history", [None], "history id is None"),
    ("position", -1, "position is -1"),
    ("position", 2**63, "position is 9223372036854775808"),
    ("seed", -1, "seed is -1"),
    ("seed", 2**64, "seed is 18446744073709551616"),
    ("sample", 2**32, "sample is 4294967296"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_bad_arguments(name: str, value: Any, message: str) -> None:
    arguments: dict[str, Any] = {"logits": LOGITS, "repetition_penalty": 1.1, name: value}
    with pytest.raises(InvalidArgumentError, match=message):
        sample(**arguments)
    assert sample(LOGITS).finite


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: top_logprobs(LOGITS, 0), "n is 0, expected an integer 1..V=40"),
        (lambda: top_logprobs(LOGITS, 41), "n is 41"),
        (lambda: top_logprobs(LOGITS, True), "n is True"),
        (lambda: top_logprobs(LOGITS[None], 1), r"logits is \[1,40\] f32"),
        (lambda: top_logprobs(LOGITS.half(), 1), "float16"),
        (lambda: log_softmax(LOGITS), r"logits is \[40\] f32, expected \[T,V\] f32"),
        (lambda: log_softmax(LOGITS.double()[None]), "float64"),
        (lambda: log_softmax(row(80)[None, ::2]), "strided"),
        (lambda: log_softmax(torch.empty(2, 0)), "the vocabulary is 0"),
        (lambda: log_softmax(LOGITS[None], out=torch.empty(1, 41)), r"out is \[1,41\] f32, expected \[T=1,V=40\]"),
        (lambda: log_softmax(LOGITS[None, :39], out=LOGITS[None, 1:]), "out shares memory with logits"),
    ],
)
def test_bad_arguments_of_the_others(call: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        call()


def test_opcheck_and_one_graph() -> None:
    torch.library.opcheck(torch.ops.tinygptv_fast.log_softmax, (LOGITS.view(4, 10),))
    torch.library.opcheck(torch.ops.tinygptv_fast.top_logprobs, (LOGITS, 3))

    def score(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return log_softmax(logits * 2), top_logprobs(logits[0] + 1, 2)[1]

    compiled = torch.compile(score, backend="aot_eager", fullgraph=True, dynamic=True)
    for tokens in (2, 4):
        logits = LOGITS.view(tokens, -1)
        assert all(torch.equal(a, b) for a, b in zip(compiled(logits), score(logits), strict=True))


def test_there_is_no_gradient() -> None:
    with pytest.raises(UnsupportedError, match="logits requires a gradient"):
        sample(row(5).requires_grad_())


def test_the_public_names() -> None:
    logits = row(90)
    assert (
        tgv.ops.sample(logits, temperature=1.0, seed=3).id == tgv.reference.sample(logits, temperature=1.0, seed=3)[0]
    )
    assert torch.allclose(tgv.ops.log_softmax(logits[None]), tgv.reference.log_softmax(logits[None]), atol=1e-5)
