"""The native engine: the reference's answers, the same bits in any company, and every way in which a request ends."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from engine_support import (
    CONFIG,
    Answer,
    ask,
    backbone,
    embeds_of,
    engine,
    nothing_left,
    prompt,
    read,
    token_bytes,
    weights,
)
from tinygptv_fast import _native
from tinygptv_fast.errors import CapacityError, ClosedError, InvalidArgumentError, TinyGPTVError
from tinygptv_fast.reference import GenerationOptions, generate

V, C = CONFIG.vocab_size, CONFIG.width


@pytest.fixture
def exact() -> Iterator[_native.Engine]:
    """Checked for leaks after each test."""
    made = engine()
    yield made
    nothing_left(made)
    made.close()


def picture(rows: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, C)).astype(np.float32)


def with_picture(ids: np.ndarray, first: int, rows: int) -> np.ndarray:
    out = ids.copy()
    out[first : first + rows] = -1
    return out


def reference(ids: np.ndarray, embeddings: np.ndarray | None = None, **options: Any) -> Any:
    return generate(
        backbone(), embeds_of(ids, embeddings), None, GenerationOptions(**{"max_new_tokens": 12, **options})
    )


# --- the reference's answers ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("length", [1, 15, 16, 17, 90])
def test_greedy_ids_are_the_references(exact: _native.Engine, length: int) -> None:
    ids = prompt(length, seed=length)
    assert ask(exact, ids).ids[0] == reference(ids).ids[0]


def test_pictures_penalties_and_minimum_length_as_in_the_reference(exact: _native.Engine) -> None:
    ids, rows = with_picture(prompt(60), 5, 32), picture(32)
    expected = reference(ids, rows, repetition_penalty=1.3, prefix_ids=(1,))
    assert ask(exact, ids, rows, repetition_penalty=1.3, history=[1]).ids[0] == expected.ids[0]
    plain = reference(ids, rows).ids[0]
    eos = (plain[2], plain[4])
    assert ask(exact, ids, rows, eos_ids=list(eos)).ids[0] == reference(ids, rows, eos_ids=eos).ids[0]
    later = reference(ids, rows, eos_ids=eos, min_length=7, prefix_ids=(1,)).ids[0]
    assert ask(exact, ids, rows, eos_ids=list(eos), min_new_tokens=6, history=[1]).ids[0] == later


@pytest.mark.parametrize("penalty", [1.0, 0.0, -1.0, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_beams_are_the_references(exact: _native.Engine, seed: int, penalty: float) -> None:
    ids = prompt(20 + seed, seed)
    greedy = reference(ids).ids[0]
    settings = {"eos_ids": (greedy[3], greedy[6], 5), "length_penalty": penalty, "repetition_penalty": 1.1 + seed}
    beams, returned = 2 + seed, 1 + seed
    expected = reference(ids, num_beams=beams, num_return_sequences=returned, prefix_ids=(1,), **settings)
    request = exact.submit_beams(
        ids, None, beams=beams, returned=returned, max_new_tokens=12, history=[1],
        **{**settings, "eos_ids": list(settings["eos_ids"])},
    )  # fmt: skip
    found = read(exact, request)
    assert [ids for ids, _ in found.beams] == expected.ids
    # Sums of up to 12 log-probabilities, each within 2e-4 of the reference's logits.
    assert [score for _, score in found.beams] == pytest.approx(expected.scores, rel=1e-3, abs=5e-3)
    assert found.ends[0] in ("stop", "length")


def test_logits_scores_and_logprobs_are_one_thing(exact: _native.Engine) -> None:
    ids = prompt(70)
    logits = np.concatenate(read(exact, exact.submit_logits(ids, None)).logits)
    expected = backbone().logits(backbone()(embeds_of(ids)))[0].numpy()
    assert logits.shape == (70, V)
    assert np.abs(logits - expected).max() < 2e-4
    tail = read(exact, exact.submit_logits(ids, None, first=33)).logits
    assert np.array_equal(np.concatenate(tail), logits[33:])

    answer = ask(exact, ids, top_logprobs=5)
    found = read(exact, exact.submit_score(ids, None, [answer.ids[0], [7], [9, 9]]))
    assert found.scores[0] == answer.logprobs[0]
    logprobs = torch.from_numpy(logits[-1]).log_softmax(-1).numpy()
    assert found.scores[1] == pytest.approx([logprobs[7]], abs=1e-5)
    best = answer.top[0][0]
    assert best[0] == (answer.ids[0][0], answer.logprobs[0][0])
    assert [token for token, _ in best] == np.argsort(-logits[-1], kind="stable")[:5].tolist()


def test_many_candidates_take_turns(exact: _native.Engine) -> None:
    ids = prompt(37)
    candidates = [[int(i), *([int(i)] * (i % 5))] for i in range(40)]
    small = engine(max_sequences=3, kv_tokens=160)
    found = read(small, small.submit_score(ids, None, candidates))
    assert sorted(found.scores) == list(range(40))
    for index in (0, 4, 17, 39):
        assert read(exact, exact.submit_score(ids, None, [candidates[index]])).scores[0] == found.scores[index]
    nothing_left(small)


# --- the same bits ----------------------------------------------------------------------------------------------------
def requests() -> list[tuple[np.ndarray, np.ndarray | None, dict[str, Any]]]:
    """Eight of all sorts; the first three share a picture."""
    shared, rows = with_picture(prompt(70), 4, 32), picture(32)
    return [
        (shared, rows, {}),
        (np.concatenate([shared, prompt(9, 5)]), rows, {"repetition_penalty": 1.2}),
        (np.concatenate([shared[:60], prompt(20, 6)]), rows, {"temperature": 0.7, "top_k": 20, "seed": 11}),
        (prompt(1, 7), None, {"max_new_tokens": 30}),
        (prompt(200, 8), None, {"temperature": 1.0, "top_p": 0.8, "seed": 2, "samples": 3}),
        (prompt(33, 9), None, {"top_logprobs": 3}),
        (prompt(16, 10), None, {"frequency_penalty": 0.5, "presence_penalty": 0.25, "logit_bias": {5: 1.5}}),
        (prompt(130, 11), None, {"min_p": 0.05, "temperature": 1.3, "seed": 4}),
    ]


@pytest.fixture(scope="module", params=[("f32", "f32"), ("int4", "int8")], ids=["exact", "int4"])
def alone(request: pytest.FixtureRequest) -> tuple[str, str, list[Answer]]:
    """Each request in an engine of its own: form, KV kind, answers."""
    form, kv_kind = request.param
    answers = []
    for ids, rows, options in requests():
        answers.append(ask(engine(form, kv_kind=kv_kind), ids, rows, **options))
    return form, kv_kind, answers


@pytest.mark.parametrize("batch", [1, 2, 5, 8])
@pytest.mark.parametrize("chunk", [1, 7, 64, 256])
@pytest.mark.parametrize("threads", [1, 2])
def test_answers_do_not_depend_on_how_the_work_is_cut(
    alone: tuple[str, str, list[Answer]], batch: int, chunk: int, threads: int
) -> None:
    form, kv_kind, expected = alone
    made = engine(form, kv_kind=kv_kind, threads=threads, prefill_chunk=chunk, max_sequences=max(batch, 3))
    for wanted in (expected, expected):  # the second time the prompts are found in the cache
        asked = requests()
        found: list[Answer] = []
        for first in range(0, len(asked), batch):
            group = [made.submit(i, e, **{"max_new_tokens": 12, **o}) for i, e, o in asked[first : first + batch]]
            found += [read(made, one) for one in group]
        for mine, other in zip(found, wanted, strict=True):
            assert mine.text == other.text
            assert mine.top == other.top
    assert found[0].done is not None
    assert found[0].done["cached"] == 64
    nothing_left(made)


def test_speculation_changes_nothing_but_the_number_of_steps(alone: tuple[str, str, list[Answer]]) -> None:
    form, kv_kind, expected = alone
    made = engine(form, kv_kind=kv_kind, threads=2)
    for (ids, rows, options), wanted in zip(requests(), expected, strict=True):
        if "seed" not in options:
            assert ask(made, ids, rows, **options, speculate=True).text == wanted.text
    text = np.tile(prompt(11), 9)  # repeats itself, so there is much to guess
    before = made.metrics()["steps"]
    plain = ask(made, text, max_new_tokens=100)
    steps = made.metrics()["steps"] - before
    guessed = ask(made, text, max_new_tokens=100, speculate=True)
    assert guessed.text == plain.text
    assert guessed.done is not None
    assert guessed.done["accepted"] > 0
    assert made.metrics()["steps"] - before - steps < steps
    nothing_left(made)


def test_a_reader_may_stream_or_come_at_the_end() -> None:
    for limit in (1, 5, 256):
        made = engine(event_limit=limit)
        request = made.submit(prompt(20), None, max_new_tokens=40)
        streamed = Answer()
        while streamed.done is None:
            for event in made.next(request, 0.001):
                streamed.take(event)
        late = made.submit(prompt(20), None, max_new_tokens=40)
        ask(made, prompt(8), max_new_tokens=40)
        assert read(made, late).text == streamed.text
        nothing_left(made)


def test_seeds_and_samples_differ(exact: _native.Engine) -> None:
    drawn = ask(exact, prompt(20), temperature=1.0, samples=4, seed=1)
    assert len({tuple(ids) for ids in drawn.ids.values()}) == 4
    assert set(drawn.ends) == {0, 1, 2, 3}
    other = ask(exact, prompt(20), temperature=1.0, samples=4, seed=2)
    assert other.ids != drawn.ids
    assert ask(exact, prompt(20), temperature=1.0, seed=1).ids[0] == drawn.ids[0]


# --- the end ----------------------------------------------------------------------------------------------------------
def test_stop_strings_across_tokens(exact: _native.Engine) -> None:
    texts = token_bytes()
    plain = ask(exact, prompt(20), max_new_tokens=30).ids[0]
    whole = b"".join(texts[token] for token in plain)
    cases = [whole[5:8], whole[1:2], whole[6:12]]
    for stop in cases:
        answer = ask(exact, prompt(20), max_new_tokens=30, stop=[b"\xff\xff", stop])
        said = b"".join(texts[token] for token in answer.ids[0])
        assert answer.ends[0] == "stop"
        assert stop in said
        assert stop not in b"".join(texts[token] for token in answer.ids[0][:-1])
        assert answer.ids[0] == plain[: len(answer.ids[0])]
    bare = engine(token_bytes=None)
    with pytest.raises(InvalidArgumentError, match="without token_bytes"):
        bare.submit(prompt(3), None, max_new_tokens=1, stop=[b"a"])


def test_cancelled_before_it_starts_twice_and_after(exact: _native.Engine) -> None:
    narrow = engine(max_sequences=1, event_limit=2)
    running = narrow.submit(prompt(9), None, max_new_tokens=100)
    waiting = narrow.submit(prompt(9), None, max_new_tokens=100)
    for _ in range(2):
        narrow.cancel(waiting)
    assert read(narrow, waiting).ends == {0: "cancelled"}
    narrow.cancel(waiting)
    narrow.cancel(running)
    answer = read(narrow, running)
    assert answer.ends == {0: "cancelled"}
    with pytest.raises(InvalidArgumentError, match="request is 77"):
        narrow.cancel(77)
    with pytest.raises(InvalidArgumentError, match="whose end was not read"):
        narrow.next(waiting, 0.0)
    nothing_left(narrow)
    request = exact.submit(prompt(9), None, max_new_tokens=400)
    first = exact.next(request, 60.0)
    exact.cancel(request)
    answer = Answer()
    for event in first:
        answer.take(event)
    while answer.done is None:
        for event in exact.next(request, 60.0):
            answer.take(event)
    assert answer.ends == {0: "cancelled"}
    assert len(answer.ids[0]) < 400


def test_deadlines_return_what_there_is(exact: _native.Engine) -> None:
    assert ask(exact, prompt(9), deadline_s=0.0).ends == {0: "deadline"}
    narrow = engine(event_limit=2)
    request = narrow.submit(prompt(9), None, max_new_tokens=100, samples=2, deadline_s=0.05)
    time.sleep(0.2)  # it stands still at its first tokens until its time is over, since nobody reads
    answer = read(narrow, request)
    assert answer.ends == {0: "deadline", 1: "deadline"}
    assert sorted(answer.ids) == [0, 1]
    nothing_left(narrow)
    long = exact.submit_beams(prompt(9), None, beams=4, returned=2, max_new_tokens=400, deadline_s=0.05, eos_ids=[1])
    assert len(read(exact, long).beams) <= 2


def test_a_step_that_nobody_wants_is_given_up() -> None:
    """One prompt of many positions in one step: without giving up, the step would end after the deadline, whole."""
    made = engine(prefill_chunk=512, kv_tokens=8192, max_sequences=8)
    for index in range(20):
        request = made.submit(prompt(500, index), None, max_new_tokens=1, deadline_s=0.0005 * index)
        assert read(made, request).ends[0] in ("deadline", "length")
        nothing_left(made)
    assert ask(made, prompt(500, 99)).text == ask(engine(), prompt(500, 99)).text


def test_a_slow_reader_does_not_stall_others() -> None:
    made = engine(event_limit=3)
    slow = made.submit(prompt(5), None, max_new_tokens=50)
    assert len(ask(made, prompt(30), max_new_tokens=100).ids[0]) == 100
    assert made.metrics()["running"] == 1
    assert len(read(made, slow).ids[0]) == 50


def test_queue_full_and_requests_that_never_fit() -> None:
    made = engine(kv_tokens=64, queue_limit=1, event_limit=1, max_sequences=2)
    with pytest.raises(CapacityError, match="kv_tokens is 64: it can never fit"):
        made.submit(prompt(60), None, max_new_tokens=10)
    with pytest.raises(CapacityError, match="2 sequences"):
        made.submit(prompt(20), None, max_new_tokens=30, samples=2, temperature=1.0)
    with pytest.raises(InvalidArgumentError, match="passes the model's 512"):
        made.submit(prompt(500), None, max_new_tokens=13)
    running = made.submit(prompt(20), None, max_new_tokens=40)
    while made.metrics()["running"] == 0:
        time.sleep(0.001)
    waiting = made.submit(prompt(20), None, max_new_tokens=40)
    with pytest.raises(CapacityError, match="queue is full"):
        made.submit(prompt(20), None, max_new_tokens=40)
    assert made.metrics()["waiting"] == 1
    assert len(read(made, running).ids[0]) == len(read(made, waiting).ids[0]) == 40
    nothing_left(made)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({"ids": np.zeros(0, np.int32)}, "ids is empty"),
    "id": ({"ids": np.array([1, V], np.int32)}, f"ids has {V} at position 1"),
    "negative": ({"ids": np.array([-2], np.int32)}, "ids has -2"),
    "type": ({"ids": np.array([1.0])}, "ids"),
    "rank": ({"ids": np.zeros((2, 2), np.int32)}, "ids is"),
    "rows": ({"ids": np.array([-1, 1], np.int32), "embeddings": picture(2)}, "embeddings has 2 rows, expected 1"),
    "width": ({"ids": np.array([-1], np.int32), "embeddings": np.zeros((1, 3), np.float32)}, f"C={C}"),
    "nan": ({"ids": np.array([-1], np.int32), "embeddings": np.full((1, C), np.nan, np.float32)}, "finite"),
    "inf": ({"ids": np.array([-1], np.int32), "embeddings": np.full((1, C), np.inf, np.float32)}, "finite"),
    "none": ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    "min": ({"min_new_tokens": 20}, "min_new_tokens is 20"),
    "eos": ({"eos_ids": [V]}, "eos_ids"),
    "history": ({"history": [-1]}, "history"),
    "stops": ({"stop": [b"x"] * 17}, "stop is 17"),
    "no_stop": ({"stop": [b""]}, "stop is"),
    "long_stop": ({"stop": [b"x" * 1025]}, "1025 bytes"),
    "temperature": ({"temperature": -1.0}, "temperature is -1"),
    "hot": ({"temperature": float("nan")}, "temperature is nan"),
    "cold": ({"temperature": 1e-60}, "temperature is 1e-60"),
    "top_k": ({"top_k": -1}, "top_k is -1"),
    "top_p": ({"top_p": 0.0}, "top_p is 0"),
    "min_p": ({"min_p": 1.5}, "min_p is 1.5"),
    "repetition": ({"repetition_penalty": 0.0}, "repetition_penalty is 0"),
    "bias": ({"logit_bias": {V: 1.0}}, "logit_bias"),
    "seed": ({"seed": -1}, "seed is -1"),
    "samples": ({"samples": 9}, "samples is 9"),
    "top_logprobs": ({"top_logprobs": 65}, "top_logprobs is 65"),
    "speculate": ({"speculate": True, "temperature": 1.0}, "speculate is true"),
    "speculate_samples": ({"speculate": True, "samples": 2}, "speculate is true"),
    "deadline": ({"deadline_s": float("nan")}, "deadline_s is nan"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_refused_at_once(exact: _native.Engine, case: str) -> None:
    options, message = BAD[case]
    given: dict[str, Any] = {"ids": prompt(4), "embeddings": None, "max_new_tokens": 8, **options}
    with pytest.raises(InvalidArgumentError, match=message):
        exact.submit(**given)
    assert exact.metrics()["waiting"] == 0


def test_bad_beams_scores_logits_and_engines() -> None:
    made = engine()
    beams: dict[str, Any] = {"beams": 3, "returned": 1, "max_new_tokens": 4}
    for change, message in (
        ({"beams": 9}, "beams is 9"),
        ({"returned": 4}, "returned is 4"),
        ({"pad_id": -1}, "pad_id is -1"),
        ({"length_penalty": float("inf")}, "length_penalty is inf"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            made.submit_beams(prompt(4), None, **{**beams, **change})
    for candidates, message in (
        ([], "candidates is 0"),
        ([[1], []], r"candidates\[1\] is empty"),
        ([[V]], "candidates"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            made.submit_score(prompt(4), None, candidates)
    with pytest.raises(InvalidArgumentError, match="first is 4"):
        made.submit_logits(prompt(4), None, first=4)
    with pytest.raises(InvalidArgumentError, match="timeout_s is NaN"):
        made.next(1, float("nan"))
    for settings, message in (
        ({"kv_tokens": 0}, "kv_tokens is 0"),
        ({"threads": -1}, "threads is -1"),
        ({"max_sequences": 0}, "max_sequences is 0"),
        ({"prefill_chunk": 0}, "prefill_chunk is 0"),
        ({"event_limit": 0}, "event_limit is 0"),
        ({"token_bytes": [b"a"]}, "token_bytes has 1"),
        ({"kv_kind": "int3"}, "int3"),
        ({"isa": "mmx"}, "mmx"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            engine(**settings)


def test_an_error_ends_its_request_and_the_engine_goes_on(exact: _native.Engine) -> None:
    ids = with_picture(prompt(40), 30, 1)
    largest = np.full((1, C), np.finfo(np.float32).max, np.float32)
    largest[0, 0] *= -1
    bad, good = exact.submit(ids, largest, max_new_tokens=8), exact.submit(prompt(9), None, max_new_tokens=12)
    assert read(exact, good).text == ask(engine(), prompt(9)).text
    answer = read(exact, bad)
    assert answer.ends == {0: "error"}
    assert "NaN" in answer.message
    for other in (
        exact.submit_beams(ids, largest, beams=2, returned=1, max_new_tokens=3),
        exact.submit_score(ids, largest, [[1, 2]]),
        exact.submit_logits(ids, largest),
    ):
        answer = read(exact, other)
        assert answer.ends == {0: "error"}
        assert "nan" in answer.message
    assert exact.metrics()["requests_error"] == 4
    assert ask(exact, prompt(9)).text == ask(engine(), prompt(9)).text


# --- the engine's own end ---------------------------------------------------------------------------------------------
def test_closing_while_generating() -> None:
    made = engine(max_sequences=2)
    requests = [made.submit(prompt(20, i), None, max_new_tokens=400) for i in range(6)]
    answers: list[Answer] = []
    reader = threading.Thread(target=lambda: answers.append(read(made, requests[0])))
    reader.start()
    made.close()
    made.close()
    reader.join(60)
    assert not reader.is_alive()
    answers += [read(made, request) for request in requests[1:]]
    assert all(answer.ends == {0: "cancelled"} for answer in answers)
    for call in (
        lambda: made.submit(prompt(3), None, max_new_tokens=1),
        lambda: made.cancel(requests[0]),
        lambda: made.turn().__enter__(),
        made.metrics,
        made.counts,
        made.check,
    ):
        with pytest.raises(ClosedError, match="closed"):
            call()


def test_a_forgotten_engine_ends_its_threads() -> None:
    gc.collect()
    before = threads_of_process()
    made = engine(threads=3)
    made.submit(prompt(20), None, max_new_tokens=400)
    assert threads_of_process() == before + 4  # two workers, the engine's thread, the one that watches deadlines
    del made
    gc.collect()
    assert threads_of_process() == before


def threads_of_process() -> int:
    return len(os.listdir("/proc/self/task"))


def test_a_child_of_fork_gets_errors_and_never_hangs() -> None:
    made = engine(threads=2)
    request = made.submit(prompt(20), None, max_new_tokens=200)
    child = os.fork()
    if child == 0:  # no pytest in here: the exit code says it all
        code = 0
        for call in (
            lambda: made.submit(prompt(3), None, max_new_tokens=1),
            lambda: made.next(request, 60.0),
            lambda: made.cancel(request),
            lambda: made.turn().__enter__(),
            made.metrics,
            made.counts,
            made.close,
        ):
            try:
                call()
                code = 1
            except TinyGPTVError as error:
                code = code if "fork" in str(error) else 2
        del made
        gc.collect()
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(read(made, request).ids[0]) == 200
    nothing_left(made)


def test_turns_hold_the_engine_between_steps() -> None:
    made = engine()
    with made.turn():
        request = made.submit(prompt(5), None, max_new_tokens=3)
        assert made.next(request, 0.02) == []
        assert made.metrics()["steps"] == 0
        with pytest.raises(InvalidArgumentError, match="has a turn already"), made.turn():
            pass
    assert len(read(made, request).ids[0]) == 3
    with pytest.raises(ZeroDivisionError), made.turn():
        raise ZeroDivisionError
    assert len(ask(made, prompt(5)).ids[0]) == 12


def test_what_is_measured() -> None:
    made = engine()
    answer = ask(made, prompt(40), max_new_tokens=9)
    again = ask(made, prompt(40), max_new_tokens=9)
    assert answer.done is not None
    assert again.done is not None
    assert (answer.done["prompt"], answer.done["cached"], answer.done["generated"]) == (40, 0, 9)
    assert again.done["cached"] == 32
    times = [answer.done[name] for name in ("queue", "prefill", "decode")]
    assert all(part >= 0 for part in times)
    assert sum(times) == pytest.approx(answer.done["total"], rel=1e-6)
    assert answer.done["first_token"] <= answer.done["total"]
    metrics = made.metrics()
    assert metrics["requests_submitted"] == metrics["requests_completed"] == 2
    assert metrics["prompt_tokens"] == 80
    assert metrics["cached_tokens"] == 32
    assert metrics["prefill_tokens"] == 48
    assert metrics["decode_tokens"] == metrics["generated_tokens"] - 2 == 16
    assert metrics["kv_pages"] == 256
    assert metrics["kv_bytes"] == 4096 * CONFIG.layers * 2 * C * 4
    assert metrics["weight_bytes"] == weights().bytes
    assert metrics["kv_pages_kept"] > 0
    assert metrics["busy_seconds"] > 0
