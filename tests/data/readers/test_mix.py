"""The order of examples: a shuffle without a table, ratios, ranks and workers, resuming, records that fail when they
are drawn.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reader_samples as samples
from tinygptv_fast.data.examples import Example
from tinygptv_fast.data.randomness import generator
from tinygptv_fast.data.readers import DataSet, Faults, Mix, Reason, Share, open_mix, read_sets
from tinygptv_fast.data.readers.config import SetConfig
from tinygptv_fast.data.readers.opening import ratios_of
from tinygptv_fast.data.readers.order import BLOCK, locate, shuffled
from tinygptv_fast.data.readers.record import Ask, Record
from tinygptv_fast.errors import ConfigError, DataError, InvalidArgumentError
from tinygptv_fast.train.stages.config import load_stage
from tinygptv_fast.train.stages.examples import Mixture


# --- the shuffle ------------------------------------------------------------------------------------------------------
@settings(max_examples=150, deadline=None)
@given(count=st.integers(1, 700), path=st.lists(st.integers(0, 2**31), min_size=1, max_size=4))
def test_a_shuffle_is_a_bijection(count: int, path: list[int]) -> None:
    assert sorted(shuffled(index, count, *path) for index in range(count)) == list(range(count))


@settings(max_examples=30, deadline=None)
@given(index=st.integers(0, 10**12 - 1))
def test_a_shuffle_of_a_million_million_takes_no_table(index: int) -> None:
    assert 0 <= shuffled(index, 10**12, 1) < 10**12


@pytest.mark.parametrize("count", [2, 3, 5, 8, 30])
def test_every_place_is_as_likely_as_any_other(count: int) -> None:
    draws = 1500
    seen = np.zeros((count, count))
    for seed in range(draws):
        seen[np.arange(count), [shuffled(index, count, seed, 7) for index in range(count)]] += 1
    expected = draws / count
    chi = ((seen - expected) ** 2 / expected).sum()
    free = (count - 1) ** 2
    assert chi < free + 6 * (2 * free) ** 0.5


def test_orders_of_other_seeds_and_passes_differ() -> None:
    orders = {tuple(shuffled(i, 50, *path) for i in range(50)) for path in itertools.product(range(4), range(4))}
    assert len(orders) == 16


# --- a mixture of made-up sets ----------------------------------------------------------------------------------------
class Numbers:
    """Records whose answers name them; those in ``bad`` fail when they are drawn."""

    def __init__(self, name: str, count: int, bad: frozenset[int] = frozenset()) -> None:
        self.name, self.count, self.bad = name, count, bad

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        picture = Broken(index) if index in self.bad else None
        return Record(self.name, index, (Ask((f"{self.name} {index}",), ("why",), ("{}?", "tell me {}")),), picture)


class Broken:
    def __init__(self, index: int) -> None:
        self.index = index

    def load(self) -> bytes:
        return b"no picture"


SIZES = {"a": 7, "b": 40, "c": 333}
WEIGHTS = {"a": 5.0, "b": 20.0, "c": 75.0}


def mix(
    share: Share | None = None, batch: int = 3, seed: int = 5, bad: Any = (), limit: float = 1000, **more: Any
) -> Mix:
    sets = []
    for name, count in SIZES.items():
        faults = Faults(name, limit)
        faults.settle(count)
        sets.append(DataSet(name, "numbers", Numbers(name, count, frozenset(bad)), faults, f"digest of {name}"))
    return Mix(sets, batch, seed, weights=WEIGHTS, share=share, **more)


def names(batch: list[Example]) -> list[str]:
    return [example.turns[0].answer for example in batch]


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_ranks_together_draw_what_one_rank_draws_and_no_record_twice_in_a_pass(ranks: int) -> None:
    """A whole pass through each set, several of the small ones."""
    steps = 2 * BLOCK // (3 * ranks)
    each = [[names(mix(Share(rank, ranks)).batch(step)) for step in range(steps)] for rank in range(ranks)]
    together = [name for step in range(steps) for rank in range(ranks) for name in each[rank][step]]
    one = mix(batch=3 * ranks)
    assert together == [name for step in range(steps) for name in names(one.batch(step))]
    for name, count in SIZES.items():
        drawn = [each for each in together if each.startswith(f"{name} ")]
        for start in range(0, len(drawn) - count + 1, count):
            assert len(set(drawn[start : start + count])) == count
        assert len(drawn) > count


def test_the_ratios_hold_in_every_block() -> None:
    found = Counter(name.split()[0] for step in range(BLOCK) for name in names(mix(batch=1).batch(step)))
    assert found == {"a": 50, "b": 200, "c": 750}


@settings(max_examples=25, deadline=None)
@given(
    ranks=st.integers(1, 4), workers=st.integers(1, 5), start=st.integers(0, 50), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_workers_share_the_steps_and_resume_anywhere(ranks: int, workers: int, start: int, seed: int) -> None:
    for rank in range(ranks):
        whole = [names(mix(Share(rank, ranks), seed=seed).batch(step)) for step in range(60)]
        found = {}
        for worker in range(workers):
            mine = mix(Share(rank, ranks, worker, workers), seed=seed)
            for step, batch in mine.batches(start, 60):
                assert step not in found and step % workers == worker
                found[step] = names(batch)
        assert found == dict(enumerate(whole[start:], start))


def test_a_batch_depends_on_nothing_but_seed_step_and_rank() -> None:
    """Asked in any order, from any thread, again: the same, wordings included."""
    one = mix(Share(1, 2))
    forward = [one.batch(step) for step in range(40)]
    other, found = mix(Share(1, 2)), {}
    order = generator(3).permutation(40).tolist()
    threads = [
        threading.Thread(
            target=lambda part: found.update({step: other.batch(step) for step in part}), args=(order[n::4],)
        )
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[step] for step in range(40)] == forward == [one.batch(step) for step in range(40)]
    assert mix(Share(1, 2), seed=6).batch(0) != forward[0]
    assert {example.turns[0].question for batch in forward for example in batch} == {"why?", "tell me why"}


def test_wordings_are_drawn_anew_in_every_pass() -> None:
    one = mix(batch=1)
    asked: dict[str, set[str | None]] = {}
    for step in range(3000):
        for example in one.batch(step):
            asked.setdefault(example.turns[0].answer, set()).add(example.turns[0].question)
    assert all(len(asked[f"a {n}"]) == 2 for n in range(7))


def test_a_record_that_fails_when_drawn_is_left_out_and_moves_no_other() -> None:
    whole = [names(mix(batch=4).batch(step)) for step in range(200)]
    holed = mix(batch=4, bad={3, 5})
    lost = {f"{name} {index}" for name in SIZES for index in (3, 5)}
    told: dict[str, int] = {}
    for step in range(200):
        kept = [name for name in whole[step] if name not in lost]
        assert kept and names(holed.batch(step)) == kept
    for each in holed.sets:
        told[each.name] = each.faults.counts[Reason.BAD_PICTURE]
    assert told == {"a": 2, "b": 2, "c": 2}  # each once, however often it came


def test_a_batch_of_which_nothing_is_left_takes_what_comes_next() -> None:
    one = mix(batch=1, bad={3})
    for step in range(300):
        batch = one.batch(step)
        assert len(batch) == 1 and not batch[0].turns[0].answer.endswith(" 3")
    first = mix(batch=1, bad={3})
    assert [names(first.batch(step)) for step in range(300)] == [names(one.batch(step)) for step in range(300)]


def test_too_many_that_fail_when_drawn_end_the_run() -> None:
    one = mix(batch=4, bad=set(range(333)), limit=4)
    with pytest.raises(DataError, match=r"too many bad records of [0-9]+, max_bad is 4; 5 left out") as raised:
        for step in range(50):
            one.batch(step)
    assert "5 picture does not open" in str(raised.value) and "record" in str(raised.value)


def test_none_left_at_all_is_an_error() -> None:
    with pytest.raises(InvalidArgumentError, match="has no record left that can be used"):
        for step in range(5):
            mix(batch=4, bad=set(range(333))).batch(step)


def test_what_accept_refuses_is_counted() -> None:
    def accept(example: Example) -> None:
        if example.turns[0].answer == "c 7":
            raise InvalidArgumentError(f"{example.where}: it takes 99 positions, expected at most 9")

    one = mix(batch=50, accept=accept)
    drawn = {name for step in range(20) for name in names(one.batch(step))}
    assert "c 7" not in drawn and "c 8" in drawn
    assert one.summary()["c"]["reasons"] == {"refused by the stage": 1}
    assert one.summary()["c"]["first"] == ["c: record 7: it takes 99 positions, expected at most 9"]


def test_the_digest_knows_data_ratios_and_ranks_but_not_the_rank() -> None:
    assert mix(Share(0, 2)).digest == mix(Share(1, 2)).digest != mix().digest
    other = mix()
    other.shares = (5.0, 20.0, 70.0)
    assert other.digest != mix().digest


@pytest.mark.parametrize(
    "wrong", [{"rank": 2, "ranks": 2}, {"rank": -1}, {"ranks": 0}, {"worker": 1}, {"workers": 0}, {"rank": 0.0}]
)
def test_shares_that_are_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"rank|worker"):
        Share(**wrong)


def test_a_set_that_would_never_be_drawn_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the ratios of \['a'\] are below 1/1000"):
        Mix(mix().sets, 1, 0, weights={"a": 0.001, "b": 50, "c": 50})


def test_the_json_forms_are_mixed_in_the_same_order_as_before() -> None:
    """``Mixture`` and ``Mix`` share the order of data sets."""
    shares = tuple(WEIGHTS.values())
    sets = {name: [Example((), where=name)] * count for name, count in SIZES.items()}
    old = Mixture(sets, 1, 5, "digest", WEIGHTS)
    assert [old.batch(n)[0].where for n in range(50)] == [list(SIZES)[locate(shares, 5, n)[0]] for n in range(50)]


# --- all formats together ---------------------------------------------------------------------------------------------
def test_every_format_in_one_mix(tmp_path: Path) -> None:
    sets = read_sets(samples.whole_mix(tmp_path), tmp_path)
    lines: list[str] = []
    whole = open_mix(sets, 6, 1, tell=lines.append)
    again = open_mix(sets, 6, 1, share=Share(0, 1))
    drawn = [example for step in range(60) for example in whole.batch(step)]
    assert drawn == [example for step in range(60) for example in again.batch(step)] and whole.digest == again.digest
    assert {example.task for example in drawn} == {
        None,
        "vqa",
        "caption",
        "refer",
        "identify",
        "grounding",
        "detection",
    }
    summary = whole.summary()
    assert list(summary) == list(samples.ALL) and all(facts["bad"] == 0 for facts in summary.values())
    assert len(lines) == len(sets) and "gqa: 1 records (gqa), none left out" in lines


def test_ratios_come_from_the_set_then_the_stage_then_one() -> None:
    def each(name: str, **more: Any) -> dict[str, Any]:
        return {"format": "gqa", "annotations": "a", "images": "b", **more}

    found: tuple[SetConfig, ...] = read_sets(
        {"sets": {"gqa": each("gqa"), "ok_vqa": each("ok_vqa", ratio=2), "mine": each("mine")}}, Path(".")
    )
    assert ratios_of(found, load_stage(4).ratios) == {"gqa": 50.0, "ok_vqa": 2, "mine": 1.0}


# --- configs ----------------------------------------------------------------------------------------------------------
GOOD = {"format": "gqa", "annotations": "a.json", "images": "b"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "data is list"),
        ({}, "data.sets is None"),
        ({"sets": {}}, "data.sets is {}"),
        ({"sets": [], "x": 1}, "unknown keys"),
        ({"sets": {"it": 7}}, "data.sets.it is int"),
        ({"sets": {"it": {}}}, r"data\.sets\.it\.format is None, expected one of"),
        ({"sets": {"it": {"format": "GQA"}}}, "expected one of webdataset"),
        ({"sets": {"it": {"format": "gqa"}}}, r"lacks \['annotations', 'images'\]"),
        ({"sets": {"it": {**GOOD, "image": "b"}}}, r"unknown keys \['image'\]"),
        ({"sets": {"it": {**GOOD, "clean": 1}}}, "clean is 1, expected true or false"),
        ({"sets": {"it": {**GOOD, "annotations": 7}}}, "annotations is 7, expected a path"),
        ({"sets": {"it": {**GOOD, "images": []}}}, "expected a path"),
        ({"sets": {"it": {**GOOD, "ratio": 0}}}, "ratio is 0"),
        ({"sets": {"it": {**GOOD, "ratio": float("nan")}}}, "ratio is nan"),
        ({"sets": {"it": {**GOOD, "max_bad": 2.5}}}, "max_bad is 2.5"),
        ({"root": 7, "sets": {"it": GOOD}}, "root is 7"),
        ({"sets": {"it": {"format": "webdataset", "shards": "x", "caption": "xml"}}}, "data.sets.it.caption is 'xml'"),
        (
            {
                "sets": {
                    "it": {
                        "format": "vqav2",
                        "questions": "q",
                        "annotations": "a",
                        "images": "i",
                        "image_name": "x.jpg",
                    }
                }
            },
            "image_name is 'x.jpg', expected a file name with one",
        ),
        ({"sets": {"it": {"format": "visual_genome", "folder": "f", "max_area": 0}}}, "data.sets.it.max_area is 0"),
    ],
)
def test_configs_that_are_none(data: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_sets(data, Path("."))


def test_paths_are_relative_to_root_and_root_to_the_config(tmp_path: Path) -> None:
    one = read_sets({"root": "data", "sets": {"it": {**GOOD, "images": ["b", "/c"]}}}, tmp_path)[0]
    assert one.settings.annotations == tmp_path / "data" / "a.json"
    assert one.settings.images == (tmp_path / "data" / "b", Path("/c"))
