"""The native backend behind the facade: the same answers however asked, and an engine that survives its callers."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tinygptv_fast as tgv
from golden_support import GOLDEN, convert_case
from tinygptv_fast.engine import NativeBackend
from tinygptv_fast.errors import CapacityError, InvalidArgumentError, TinyGPTVError, UnsupportedError
from tinygptv_fast.protocol import VISUAL, GenerationOptions, Prompt

IMAGE = str(GOLDEN / "images" / "img0.png")
TEXTS = ("where?", "a dog near the tree", "why", "the quick brown fox jumps over it", "hello there", "no", "yes", "ok?")


def engine_of(model: tgv.TinyGPTV) -> Any:
    backend = model._backend
    assert isinstance(backend, NativeBackend)
    return backend.engine


def idle(model: tgv.TinyGPTV) -> None:
    """Wait until nothing is under way, then hold the cache to its rules: what is left is prefixes nobody refers to."""
    while model.stats()["running"] or model.stats()["waiting"]:
        time.sleep(0.005)
    engine_of(model).check()
    assert engine_of(model).counts()["sequences"] == 0


def plain(answer: tgv.Answer | Exception) -> tuple[list[int], list[float], str, str]:
    assert isinstance(answer, tgv.Answer)
    return answer.token_ids, answer.logprobs, answer.text, answer.finish_reason


REQUESTS: list[dict[str, Any]] = [
    *({"prompt": text, "max_new_tokens": 10 + index} for index, text in enumerate(TEXTS)),
    {"image": IMAGE, "prompt": "where?", "max_new_tokens": 12},
    {"prompt": "where?", "max_new_tokens": 12, "temperature": 1.3, "seed": 5, "top_k": 40, "top_p": 0.9},
    {"prompt": "a dog", "max_new_tokens": 9, "repetition_penalty": 1.3, "stop": "e"},
    {"prompt": "a dog", "max_new_tokens": 9, "num_beams": 3},
    {"prompt": "a dog", "choices": ["yes", "no", "perhaps"]},
    {"prompt": "a dog", "max_new_tokens": 20, "speculate": True},
]


@pytest.fixture(scope="module")
def int4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int4") / "model"
    return convert_case("B_stage4", folder, quantization="int4", dtype="auto", vision_dtype="int8")


@pytest.fixture(scope="module")
def golden(int4: Path) -> list[Any]:
    """Every request alone, on one thread."""
    with tgv.TinyGPTV.from_pretrained(int4, threads=1) as model:
        return [plain(model.generate(**request)) for request in REQUESTS]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("max_sequences", [1, 3, 8])
def test_answers_do_not_depend_on_company(int4: Path, golden: list[Any], threads: int, max_sequences: int) -> None:
    with tgv.TinyGPTV.from_pretrained(int4, threads=threads, max_sequences=max_sequences) as model:
        if max_sequences < 3:
            requests = [one for one in REQUESTS if "num_beams" not in one and "choices" not in one]
            wanted = [g for g, one in zip(golden, REQUESTS, strict=True) if one in requests]
        else:
            requests, wanted = REQUESTS, golden
        assert [plain(answer) for answer in model.generate_batch(requests)] == wanted
        with ThreadPoolExecutor(8) as pool:
            assert [plain(a) for a in pool.map(lambda one: model.generate(**one), requests)] == wanted
        for request, want in zip(requests, wanted, strict=True):
            if not {"num_beams", "choices"} & set(request):
                *_, last = model.stream(**request)
                assert last.answer is not None and plain(last.answer) == want
        idle(model)


def test_exact_and_int4_stay_close_to_the_reference(int4: Path) -> None:
    """int8 activations and KV against dequantised weights in float32: the same argmax nearly everywhere."""
    prompt = "<Img><ImageHere></Img> where is the dog and what does it do?"
    with (
        tgv.TinyGPTV.from_pretrained(int4, backend="reference") as slow,
        tgv.TinyGPTV.from_pretrained(int4, dtype="float32") as exact,
        tgv.TinyGPTV.from_pretrained(int4) as fast,
    ):
        state = slow.encode_image(IMAGE)
        want = slow.logits(state, prompt)
        torch.testing.assert_close(exact.logits(state, prompt), want, rtol=0, atol=2e-4)
        error = (fast.logits(state, prompt) - want).norm() / want.norm()
        assert error < 0.1
        assert (exact.info["dtype"], exact.info["kv_dtype"]) == ("float32", "float32")
        assert (fast.info["dtype"], fast.info["kv_dtype"]) == ("int4", "int8")


def test_info_and_stats(native: tgv.TinyGPTV) -> None:
    info = native.info
    assert (info["backend"], info["device"], info["threads"]) == ("native", "cpu", 2)
    assert info["isa"] in ("portable", "avx2", "avxvnni", "avx512", "avx512vnni")
    assert info["kv_tokens"] >= info["max_positions"] and info["max_sequences"] == 8
    before = native.stats()
    native.generate(None, "where?", max_new_tokens=4)
    after = native.stats()
    assert after["generated_tokens"] - before["generated_tokens"] == 4
    assert after["steps"] > before["steps"]


def test_samples_are_seeded_and_unseeded_ones_differ(native: tgv.TinyGPTV) -> None:
    settings: dict[str, Any] = {"temperature": 2.0, "max_new_tokens": 12, "num_return_sequences": 3}
    one, two = (native.generate(None, "where?", seed=11, **settings) for _ in range(2))
    assert plain(one) == plain(two)
    assert [plain(a) for a in one.alternatives] == [plain(a) for a in two.alternatives]
    assert len({tuple(a.token_ids) for a in [one, *one.alternatives]}) == 3
    free = {tuple(native.generate(None, "where?", **settings).token_ids) for _ in range(4)}
    assert len(free) > 1


def test_timings_come_from_the_engine(native: tgv.TinyGPTV) -> None:
    timings = native.generate(IMAGE, "where?", max_new_tokens=10).timings
    assert timings.prefill > 0 and timings.decode > 0 and timings.queue >= 0
    assert timings.first_token <= timings.total
    assert timings.preprocess + timings.prefill + timings.decode <= timings.total


# --- ending early -------------------------------------------------------------------------------------------------
def test_closing_a_stream_ends_its_request(native: tgv.TinyGPTV) -> None:
    for _ in range(3):
        pieces = native.stream(None, "where?", max_new_tokens=400)
        next(pieces)
        pieces.close()
        assert native.stats()["running"] == 0  # closing waits for the end
    unused = native.stream(None, "where?")
    del unused
    idle(native)


@pytest.mark.parametrize("deadline_ms", [1e-3, 30.0])
def test_deadline_before_and_after_submission(native: tgv.TinyGPTV, deadline_ms: float) -> None:
    """The engine is held, so no token can come: the deadline ends the request all the same."""
    release = threading.Event()

    def hold() -> None:
        with engine_of(native).turn():
            held.set()
            release.wait(60)

    held, holder = threading.Event(), threading.Thread(target=hold)
    holder.start()
    held.wait()
    threading.Timer(0.2, release.set).start()
    answer = native.generate(None, "where?", max_new_tokens=400, deadline_ms=deadline_ms)
    release.set()
    holder.join()
    assert answer.finish_reason == "deadline"
    assert (answer.token_ids, answer.text, answer.logprobs) == ([], "", [])
    ranked = native.generate(None, "where?", choices=["a", "b"], deadline_ms=1e-3)
    assert (ranked.finish_reason, ranked.text, ranked.alternatives) == ("deadline", "", [])
    *_, last = native.stream(None, "where?", deadline_ms=1e-3)
    assert last.answer is not None and last.answer.finish_reason == "deadline"
    idle(native)


def test_ctrl_c_cancels_and_leaves_the_model_usable(native: tgv.TinyGPTV) -> None:
    release = threading.Event()

    def hold_then_interrupt() -> None:
        with engine_of(native).turn():
            held.set()
            while not native.stats()["waiting"] + native.stats()["running"]:
                time.sleep(0.005)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            release.wait(0.3)

    held, other = threading.Event(), threading.Thread(target=hold_then_interrupt)
    other.start()
    held.wait()
    with pytest.raises(KeyboardInterrupt):
        native.generate(None, "where?", max_new_tokens=400)
    release.set()
    other.join()
    idle(native)
    assert len(native.generate(None, "where?", max_new_tokens=3).token_ids) == 3


def test_an_error_in_a_batch_cancels_the_others(native: tgv.TinyGPTV) -> None:
    requests = [{"prompt": "where?", "max_new_tokens": 400}, {"image": "missing.png", "prompt": "x"}]
    with pytest.raises(InvalidArgumentError, match=r"missing\.png"):
        native.generate_batch(requests)
    idle(native)
    answers = native.generate_batch([*requests, {"prompt": "a", "max_new_tokens": 3}], on_error="return")
    assert [type(answer) for answer in answers[::2]] == [tgv.Answer, tgv.Answer]
    assert isinstance(answers[1], InvalidArgumentError)


def test_closing_while_generating_cancels(directories: dict[str, Path]) -> None:
    model = tgv.TinyGPTV.from_pretrained(directories["B_stage4"])
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(model.generate(None, "where?", max_new_tokens=400)))
        for _ in range(3)
    ]
    with engine_of(model).turn():
        for thread in threads:
            thread.start()
        while model.stats()["waiting"] + model.stats()["running"] < 3:
            time.sleep(0.005)
        closer = threading.Thread(target=model.close)
        closer.start()
    for thread in [*threads, closer]:
        thread.join(60)
        assert not thread.is_alive()
    assert [answer.finish_reason for answer in answers] == ["cancelled"] * 3


def test_a_forked_child_gets_an_error_and_the_parent_goes_on(native: tgv.TinyGPTV) -> None:
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            native.generate(None, "where?", max_new_tokens=3)
        except TinyGPTVError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert len(native.generate(None, "where?", max_new_tokens=3).token_ids) == 3


# --- bad input ----------------------------------------------------------------------------------------------------
def test_what_can_never_fit_says_what_would(directories: dict[str, Path]) -> None:
    with tgv.TinyGPTV.from_pretrained(directories["B_stage4"], kv_tokens=48) as model:
        with pytest.raises(CapacityError, match="48"):
            model.generate(None, "where is it?", max_new_tokens=200)
        with pytest.raises(InvalidArgumentError, match="num_return_sequences is 400, expected <= max_sequences=8"):
            model.generate(None, "where?", temperature=1.0, num_return_sequences=400, max_new_tokens=8)
        with pytest.raises(InvalidArgumentError, match="num_beams is 9, expected <= max_sequences=8"):
            model.generate(None, "where?", num_beams=9, max_new_tokens=8)
        assert len(model.generate(None, "where?", max_new_tokens=3).token_ids) == 3
        idle(model)


def test_bad_numbers_in_embeddings_end_nothing_else(native: tgv.TinyGPTV) -> None:
    width = native.config.text.width
    backend, options = native._backend, GenerationOptions(max_new_tokens=3)
    assert backend is not None
    ids = np.array([5, VISUAL, VISUAL, 6], dtype=np.int32)
    for rows, words in (
        (np.full((2, width), np.nan, np.float32), "embeddings"),
        (np.full((2, width), np.inf, np.float32), "embeddings"),
        (np.zeros((1, width), np.float32), "embeddings"),
        (np.zeros((2, width + 1), np.float32), "embeddings"),
        (None, "embeddings"),
    ):
        with pytest.raises(InvalidArgumentError, match=words):
            backend.submit(Prompt(ids, rows), options, [], None)
    for bad, words in (
        ([], "ids"),
        ([-2], "ids"),
        ([native.config.text.vocab_size], "ids"),
        ([5] * 5000, "ids has 5000"),
    ):
        with pytest.raises(InvalidArgumentError, match=words):
            backend.submit(Prompt(np.array(bad, dtype=np.int32), None), options, [], None)
    idle(native)


def test_cancelling_twice_and_after_the_end(native: tgv.TinyGPTV) -> None:
    backend = native._backend
    assert backend is not None
    prompt = Prompt(np.array([5, 6], dtype=np.int32), None)
    job = backend.submit(prompt, GenerationOptions(max_new_tokens=300), [], None)
    job.cancel()
    job.cancel()
    events: list[Any] = []
    while not events or events[-1][0] != "done":
        events += job.poll(1.0)
    job.cancel()
    assert events[-2][:3] == ("end", 0, "cancelled")
    idle(native)


def test_beams_take_no_penalties_of_their_own(native: tgv.TinyGPTV) -> None:
    with pytest.raises(UnsupportedError, match="presence_penalty"):
        native.generate(None, "where?", num_beams=2, presence_penalty=1.0)


def test_reference_says_what_it_cannot(directories: dict[str, Path]) -> None:
    with (
        tgv.TinyGPTV.from_pretrained(directories["A_stage1"], backend="reference") as model,
        pytest.raises(UnsupportedError, match="logit_bias is not available with backend 'reference'"),
    ):
        model.generate(None, "where?", logit_bias={3: 1.0})


def test_logit_bias_and_presence_penalty_act(native: tgv.TinyGPTV) -> None:
    forced = native.generate(None, "where?", max_new_tokens=4, logit_bias={17: 100.0}, template="raw")
    assert forced.token_ids == [17] * 4
    varied = native.generate(
        None, "where?", max_new_tokens=4, logit_bias={17: 60.0, 18: 59.5}, presence_penalty=2.0, template="raw"
    )
    assert set(varied.token_ids[:2]) == {17, 18}
