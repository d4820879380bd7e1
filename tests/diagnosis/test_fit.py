"""Amounts in words, the counting behind predictions, and the choice of settings, on rates made up for the test."""

from __future__ import annotations

import dataclasses
import re

import pytest

from tinygptv_fast.config import ModelConfig, TextConfig, VisionConfig
from tinygptv_fast.diagnosis.fit import (
    TEXT_SHARE,
    Limits,
    Plan,
    Rates,
    all_plans,
    choose,
    plan_one,
    prompt_ops,
    prompt_tokens,
    stored_plans,
    vision_arithmetic,
    vision_ops,
)
from tinygptv_fast.diagnosis.probes import measure_pieces, measure_rates, thread_counts
from tinygptv_fast.diagnosis.quantities import parse_bytes, parse_seconds
from tinygptv_fast.diagnosis.settings import RELEASED
from tinygptv_fast.errors import CapacityError, InvalidArgumentError

VNNI = {"avx512_vnni": True, "avx512bw": True, "avx512vl": True, "avx512dq": True, "avx512_bf16": True}
# Two Zen 5 cores of benchmarks/results/cpu.jsonl, and one of them.
TWO = Rates(2, 42e9, 2.0e12, 0.75e12, 0.3e12)
ONE = Rates(1, 30e9, 1.0e12, 0.38e12, 0.15e12)
PLANS = all_plans(RELEASED, [ONE, TWO], VNNI)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4GB", 4e9),
        ("3.5 GiB", 3.5 * 2**30),
        ("900MB", 9e8),
        ("1b", 1),
        (" 2 kib ", 2048),
        (".5TB", 5e11),
        ("1.GB", 1e9),
    ],
)
def test_sizes(text: str, count: float) -> None:
    assert parse_bytes("--memory", text) == count


@pytest.mark.parametrize(("text", "seconds"), [("2s", 2), ("500ms", 0.5), ("1.5 min", 90), ("2S", 2)])
def test_times(text: str, seconds: float) -> None:
    assert parse_seconds("--ttft", text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "4", "GB", "-1GB", "0GB", "4 G B", "nanGB", "4XB", "1e3GB", "9" * 40 + "GB", "٤GB"]
)
def test_bad_sizes(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"--memory is .*expected a size like 4GB"):
        parse_bytes("--memory", text)


@pytest.mark.parametrize("text", ["", "2", "s", "-1s", "0s", "2GB", "inf s", "2 days", "999999min"])
def test_bad_times(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"--ttft is .*expected a time like 2s"):
        parse_seconds("--ttft", text)


# --- counting ---------------------------------------------------------------------------------------------------------
def test_operations_of_the_released_model() -> None:
    body = 32 * 2560 * (4 * 2560 + 2 * 10240)
    assert prompt_ops(RELEASED, 1) == 2 * body + 2 * 51200 * 2560 + 4 * 32 * 2560
    assert prompt_tokens(RELEASED) == 64 + 32 and prompt_tokens(ModelConfig()) == 64
    tower = 39 * (2 * 1025 * 1408 * (4 * 1408 + 2 * 6144) + 4 * 1025**2 * 1408)
    assert 1 < vision_ops(RELEASED) / tower < 1.02
    assert vision_ops(ModelConfig(text=TextConfig())) == 0


def test_predictions_are_near_what_was_measured_on_that_machine() -> None:
    """benchmarks/results/cpu.jsonl: 2.95 s of vision at 448 px and 0.68 at 224, 260 tokens/s of prompt, 28 tokens/s,
    3.38 GB resident with a full context and a picture at 448 px."""
    found = plan_one(RELEASED, "int4", 32, "int8", "int8", TWO, VNNI)
    assert found.vision_s == pytest.approx(2.95, rel=0.1)
    assert prompt_tokens(RELEASED) / found.prompt_s == pytest.approx(260, rel=0.15)
    assert found.tokens_per_s == pytest.approx(25, rel=0.15)
    assert 1.0 <= found.memory_bytes / 3.38e9 < 1.12
    small = dataclasses.replace(RELEASED, vision=VisionConfig(image_size=224))
    assert plan_one(small, "int4", 32, "int8", "int8", TWO, VNNI).vision_s == pytest.approx(0.68, rel=0.1)


def test_the_larger_of_bytes_and_operations_decides() -> None:
    slow_memory = dataclasses.replace(TWO, read=1e9)
    found = plan_one(RELEASED, "int4", 32, "int8", "int8", slow_memory, VNNI)
    assert found.prompt_s == pytest.approx(found.parts["text"] / 1e9)
    fast = plan_one(RELEASED, "int4", 32, "int8", "int8", TWO, VNNI)
    assert fast.prompt_s == pytest.approx(prompt_ops(RELEASED, 96) / (TEXT_SHARE * 2.0e12))


def test_each_setting_costs_what_it_holds() -> None:
    def bytes_of(text: str, group: int, kv: str, vision: str) -> int:
        return plan_one(RELEASED, text, group, kv, vision, TWO, VNNI).memory_bytes

    base = bytes_of("int4", 128, "int8", "int8")
    assert base < bytes_of("int4", 32, "int8", "int8") < bytes_of("int8", 32, "int8", "int8")
    assert bytes_of("int8", 32, "int8", "int8") < bytes_of("bfloat16", 32, "int8", "int8")
    assert bytes_of("int4", 128, "float16", "int8") - base == 2 * 32 * 32 * (80 - 2) * 2048
    assert bytes_of("int4", 128, "int8", "bfloat16") - base > 0.8e9


def test_a_cpu_without_the_instructions_computes_what_it_can() -> None:
    assert vision_arithmetic("int8", VNNI) == "int8" and vision_arithmetic("int8", {}) == "float32"
    assert vision_arithmetic("bfloat16", {}) == "float32"
    old = Rates(2, 20e9, None, None, 0.1e12)
    found = plan_one(RELEASED, "int4", 32, "int8", "int8", old, {})
    assert found.vision_arithmetic == "float32" and found.first_token_s > 20


# --- choosing ---------------------------------------------------------------------------------------------------------
def test_the_choice_is_within_both_limits_and_monotone() -> None:
    ranks = []
    for size in (3.6e9, 3.8e9, 4.5e9, 5e9, 6e9, 8e9, 10e9, 16e9):
        limits = Limits(int(size), 60.0)
        found = choose(PLANS, limits)
        assert found.memory_bytes <= size and found.first_token_s <= 60
        ranks.append(found.rank)
    assert ranks == sorted(ranks, reverse=True) and len(set(ranks)) > 3
    assert choose(PLANS, Limits()).rank == (0, 0, 0)


def test_more_time_never_means_more_rounding() -> None:
    found = [choose(PLANS, Limits(None, seconds)) for seconds in (3.5, 4, 5, 6, 8, 20)]
    assert [one.rank for one in found] == sorted((one.rank for one in found), reverse=True)
    assert all(one.first_token_s <= s for one, s in zip(found, (3.5, 4, 5, 6, 8, 20), strict=True))


def test_no_more_threads_than_help() -> None:
    four = dataclasses.replace(TWO, threads=4)  # as fast as two
    assert choose(all_plans(RELEASED, [ONE, TWO, four], VNNI), Limits()).threads == 2


@pytest.mark.parametrize("limits", [Limits(10**9), Limits(None, 0.01), Limits(10**9, 0.01), Limits(10**9, 60.0)])
def test_nothing_fits_says_what_would(limits: Limits) -> None:
    with pytest.raises(CapacityError, match="nothing fits") as caught:
        choose(PLANS, limits)
    said = str(caught.value)
    assert "the smallest setting (text int4 groups of 128" in said and "\n" not in said
    assert said.endswith("would do")
    advice = said.rsplit("; ", 1)[1]
    memory = re.search(r"--memory (\S+)", advice)
    seconds = re.search(r"--ttft (\S+)", advice)
    better = Limits(
        parse_bytes("--memory", memory[1]) if memory else limits.memory_bytes,
        parse_seconds("--ttft", seconds[1]) if seconds else limits.first_token_s,
    )
    assert better != limits and better.allows(choose(PLANS, better))


def test_a_converted_model_keeps_its_kinds() -> None:
    kinds = dataclasses.replace(RELEASED.quantization, text="int8", vision="bfloat16")
    found = stored_plans(dataclasses.replace(RELEASED, quantization=kinds), [ONE, TWO], VNNI)
    assert {(plan.text, plan.vision) for plan in found} == {("int8", "bfloat16")}
    assert {(plan.kv_dtype, plan.threads) for plan in found} == {(k, n) for k in ("int8", "float16") for n in (1, 2)}


def test_rates_are_needed() -> None:
    with pytest.raises(InvalidArgumentError, match="rates is empty"):
        all_plans(RELEASED, [], VNNI)


def options_of(plan: Plan) -> tuple[str, str]:
    return plan.conversion_options(), plan.loading_arguments()


def test_settings_are_written_as_commands_take_them() -> None:
    plan = plan_one(RELEASED, "int4", 128, "int8", "int8", TWO, VNNI)
    assert options_of(plan) == (
        "--quantization int4 --group-size 128 --vision-dtype int8",
        'kv_dtype="int8", threads=2, max_sequences=1',
    )
    exact = plan_one(RELEASED, "bfloat16", 32, "float16", "bfloat16", TWO, VNNI)
    assert exact.conversion_options() == "--quantization none --dtype bfloat16 --vision-dtype bfloat16"


# --- this machine -----------------------------------------------------------------------------------------------------
def test_thread_counts() -> None:
    assert [thread_counts(n) for n in (1, 2, 6)] == [[1], [1, 2], [1, 2, 4, 6]]


def test_rates_and_pieces_of_this_machine() -> None:
    rates = measure_rates(1)
    assert rates.threads == 1 and rates.read > 1e8 and rates.float32 > 1e8
    tower = VisionConfig(image_size=28, width=64, layers=2, heads=4, mlp_width=128)
    small = dataclasses.replace(RELEASED, vision=tower)
    from tinygptv_fast import _native

    plan = plan_one(small, "int4", 32, "int8", "int8", rates, _native.cpu_features())
    pieces = measure_pieces(small, plan, 8)
    assert [piece.what for piece in pieces] == ["vision", "prompt"]
    assert [piece.predicted for piece in pieces] == [plan.vision_s, plan.prompt_s]
    assert all(piece.measured > 0 and "times" in piece.how for piece in pieces)
