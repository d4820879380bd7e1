"""Blocks between probes, and what rows make of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tinygptv_fast.bench.blocks import STEADY, Block, Blocks, Cost, measure
from tinygptv_fast.bench.noise import between, read_noise
from tinygptv_fast.bench.row import Row, from_blocks, from_values, spread

from .conftest import FakeInstruments


def test_blocks_whose_probes_differ_are_dropped_and_counted() -> None:
    calls: list[str] = []
    probes = (10e9, 10.4e9, 10e9, 10.6e9)  # 4 % apart: counts; 6 % apart: does not
    blocks = measure(FakeInstruments(probes), lambda: calls.append("work"), 3, prepare=lambda: calls.append("prepare"))
    assert (len(blocks.kept), len(blocks.dropped)) == (3, 2)
    assert calls == ["prepare", "work"] * 6  # one to warm up, three kept, two dropped
    assert [block.bandwidth for block in blocks.kept] == [10.2e9] * 3
    assert [block.seconds for block in blocks.kept] == [0.5] * 3


def test_a_probe_exactly_at_the_limit_counts() -> None:
    assert len(measure(FakeInstruments((10e9, STEADY * 10e9)), lambda: None, 1).kept) == 1


def test_work_may_say_its_own_time() -> None:
    assert measure(FakeInstruments(), lambda: 0.125, 1).kept[0].seconds == 0.125


def test_an_unsteady_machine_ends_the_blocks_and_leaves_no_figure() -> None:
    blocks = measure(FakeInstruments((10e9, 20e9)), lambda: None, 4)
    assert (len(blocks.kept), len(blocks.dropped)) == (0, 10)
    row = from_blocks("decode", "x", "tok/s", blocks, Cost(5, 7), lambda s: 1 / s, 1e12)
    assert (row.median, row.n, row.dropped, row.bytes, row.ops) == (None, 0, 10, 5, 7)
    assert row.fraction_of_roof is None and row.details["median_of_dropped"] == 2.0


def test_fractions_are_of_the_probes_around_each_block() -> None:
    blocks = Blocks(
        [Block(1.0, 10e9, 0.0, 0.0), Block(2.0, 5e9, 0.1, 0.2), Block(4.0, 2.5e9, 0.0, 0.05)],
        [Block(9.0, 1e9, 1.0, 0.0)],
    )
    row = from_blocks("decode", "x", "tok/s", blocks, Cost(8 * 10**9, 10**9), lambda s: 32 / s, peak=1e10)
    assert row.fraction_of_bandwidth == pytest.approx(0.8)  # each block: 8e9 / seconds / bandwidth
    assert row.fraction_of_peak == pytest.approx(0.05)  # the median block: 1e9 / 2 s / 1e10
    assert row.fraction_of_roof == pytest.approx(0.8)
    assert (row.median, row.n, row.dropped) == (16.0, 3, 1)
    assert (row.gb_per_s, row.gop_per_s, row.read_gb_per_s) == (4.0, 0.5, 5.0)
    assert (row.foreign_share, row.stolen_share) == (0.1, 0.2)
    assert row.p10 is not None and row.p90 is not None and row.p10 <= 16.0 <= row.p90


def test_arithmetic_is_the_roof_where_it_allows_less() -> None:
    blocks = Blocks([Block(1.0, 10e9, 0.0, 0.0)])
    row = from_blocks("prefill", "x", "tok/s", blocks, Cost(10**9, 9 * 10**11), lambda s: 1 / s, peak=1e12)
    assert (row.fraction_of_bandwidth, row.fraction_of_peak, row.fraction_of_roof) == (0.1, 0.9, 0.9)


def test_spread_of_nothing_one_and_many() -> None:
    assert spread([]) == (None, None, None)
    assert spread([3.0]) == (3.0, 3.0, 3.0)
    assert spread([float(i) for i in range(11)]) == (5.0, 1.0, 9.0)


def test_a_row_is_json() -> None:
    row = from_values("load", "x", "s", [1.0, 2.0], mode="read")
    assert Row(**json.loads(json.dumps(row.to_dict()))) == row


def test_noise_is_what_others_used_of_all_cpus(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 0 100 900 0 0 0 10 0 0\ncpu0 1 2 3\n", encoding="ascii")
    before = read_noise(stat)
    assert (before.busy, before.stolen) == (2.0, 0.1)  # ticks of 10 ms
    after = type(before)(before.busy + 1.5, before.stolen + 0.2, before.own + 1.0, before.wall + 1.0)
    noise = between(before, after, cpus=2)
    assert (noise.foreign, noise.stolen) == (pytest.approx(0.25), pytest.approx(0.1))


def test_own_work_is_not_noise() -> None:
    before = read_noise()
    after = type(before)(before.busy + 1.0, before.stolen, before.own + 1.5, before.wall + 1.0)  # ticks lag behind
    assert between(before, after, cpus=2).foreign == 0.0
