"""Streamers, threads and errors at every stage: each call ends, each stream ends, nothing is left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    PhiForCausalLM,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    TextIteratorStreamer,
    TextStreamer,
)
from transformers.generation.streamers import BaseStreamer

import tinygptv_fast as tgv
from hf.conftest import check_idle
from hf.support import FavourEven, prompts, random_phi
from tinygptv_fast.errors import ClosedError, TinyGPTVError
from tinygptv_fast.generate.loading import locate
from tinygptv_fast.hf.model import AcceleratedPhi

WAIT_S = 60.0  # far more than any of these takes: only a hang ends so
GREEDY: dict[str, Any] = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": 119}


class Recorder(BaseStreamer):
    """What it was given; raises at the put of number ``fail_at``."""

    def __init__(self, fail_at: int = -1) -> None:
        self.puts: list[Tensor] = []
        self.ends = 0
        self._fail_at = fail_at

    def put(self, value: Tensor) -> None:
        if len(self.puts) == self._fail_at:
            raise RuntimeError("the reader went away")
        self.puts.append(value)

    def end(self) -> None:
        self.ends += 1


class Failing(LogitsProcessor, StoppingCriteria):
    """A processor or a criterion that raises at its third call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls == 3:
            raise RuntimeError("a mistake of the caller's")
        return scores if isinstance(scores, Tensor) else torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    directory = locate("demo", revision=None, token=None, cache_dir=None, local_files_only=True)
    return PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))


@pytest.mark.parametrize("processors", [[], [FavourEven()]], ids=["native", "loop"])
def test_a_streamer_gets_what_torch_gives_it(processors: list[Any], phi: PhiForCausalLM, accelerated: Any) -> None:
    theirs, ours = Recorder(), Recorder()
    for model, streamer in ((phi, theirs), (accelerated, ours)):
        model.generate(prompts("one").ids, streamer=streamer, logits_processor=list(processors), **GREEDY)
    assert accelerated.last_route.startswith("loop" if processors else "native")
    assert [p.tolist() for p in ours.puts] == [p.tolist() for p in theirs.puts]
    assert ours.ends == theirs.ends == 1


def test_text_streamers(tokenizer: Any, phi: PhiForCausalLM, accelerated: Any, capsys: Any) -> None:
    texts = []
    for model in (phi, accelerated):
        model.generate(prompts("one").ids, streamer=TextStreamer(tokenizer, skip_prompt=True), **GREEDY)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and texts[0].strip()
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=WAIT_S)
    thread = threading.Thread(
        target=accelerated.generate, args=(prompts("one").ids,), kwargs={"streamer": streamer, **GREEDY}
    )
    thread.start()
    assert "".join(streamer).strip() == texts[0].strip()
    thread.join(WAIT_S)


def test_streamers_of_beams_and_batches_as_in_torch(phi: PhiForCausalLM, accelerated: AcceleratedPhi) -> None:
    for model in (phi, accelerated):
        with pytest.raises(ValueError, match="streamer"):
            model.generate(prompts("one").ids, streamer=Recorder(), num_beams=2, **GREEDY)
    theirs, ours = Recorder(), Recorder()
    for model, streamer in ((phi, theirs), (accelerated, ours)):
        model.generate(prompts("three").ids, streamer=streamer, **GREEDY)
    assert [p.tolist() for p in ours.puts] == [p.tolist() for p in theirs.puts]


FAILURES: dict[str, dict[str, Any]] = {
    "streamer at the prompt": {"streamer": lambda: Recorder(0)},
    "streamer in the engine": {"streamer": lambda: Recorder(4)},
    "streamer in the loop": {"streamer": lambda: Recorder(4), "logits_processor": lambda: [FavourEven()]},
    "processor": {"logits_processor": lambda: [Failing()], "streamer": Recorder},
    "criterion": {"stopping_criteria": lambda: [Failing()], "streamer": Recorder},
    "argument": {"streamer": Recorder, "top_kk": lambda: 3},
    "configuration": {"streamer": Recorder, "num_return_sequences": lambda: 3},
    "prompt": {"streamer": Recorder, "attention_mask": lambda: torch.zeros((1, 7), dtype=torch.int64)},
    "beams": {"num_beams": lambda: 3, "logits_processor": lambda: [Failing()]},
}


@pytest.mark.parametrize("name", FAILURES)
def test_an_error_ends_call_and_stream(name: str, accelerated: AcceleratedPhi) -> None:
    keywords = {key: make() for key, make in FAILURES[name].items()}
    with pytest.raises((RuntimeError, ValueError, NotImplementedError)):
        accelerated.generate(prompts("one").ids, **GREEDY, **keywords)
    if "streamer" in keywords:
        assert keywords["streamer"].ends == 1
    check_idle(accelerated)
    assert accelerated.generate(prompts("one").ids, **GREEDY).shape == (1, 17)  # the next call is served


@pytest.mark.parametrize("method", ["step", "start", "fork", "extend"])
def test_an_error_of_the_native_core_leaves_nothing(
    method: str, accelerated: AcceleratedPhi, monkeypatch: pytest.MonkeyPatch
) -> None:
    native, calls = accelerated._pool._decoder, []

    class Broken:
        """The decoder, where one method fails at its second call."""

        def __getattr__(self, name: str) -> Any:
            def fail(*args: Any) -> Any:
                calls.append(name)
                if len(calls) == 2:
                    raise TinyGPTVError("the device failed")
                return getattr(native, name)(*args)

            return fail if name == method else getattr(native, name)

    monkeypatch.setattr(accelerated._pool, "_decoder", Broken())
    with pytest.raises(TinyGPTVError, match="device failed"):
        accelerated.generate(**prompts("left").keywords(), num_beams=3, **GREEDY)
    monkeypatch.undo()
    assert len(calls) == 2
    check_idle(accelerated)


@pytest.mark.parametrize("error", [TinyGPTVError, KeyboardInterrupt])
def test_an_error_while_the_engine_is_read_cancels_its_rows(
    error: type[BaseException], accelerated: AcceleratedPhi, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinygptv_fast.engine.native_backend import EngineJob

    poll, calls = EngineJob.poll, []

    def interrupted(self: EngineJob, timeout_s: float) -> Any:
        calls.append(0)
        if len(calls) == 3:
            raise error("now")
        return poll(self, timeout_s)

    monkeypatch.setattr(EngineJob, "poll", interrupted)
    with pytest.raises(error):
        accelerated.generate(prompts("three").ids, **{**GREEDY, "max_new_tokens": 100})
    check_idle(accelerated)


def test_threads_get_what_one_gets(phi: PhiForCausalLM, accelerated: AcceleratedPhi) -> None:
    """Both routes at once, from several threads."""
    kinds = ("one", "three", "left", "holes")
    jobs = [(kind, beams) for kind in kinds for beams in (1, 2)]
    got: dict[tuple[str, int], Tensor] = {}

    def work(kind: str, beams: int) -> None:
        keywords = {**GREEDY, **prompts(kind).keywords(), "num_beams": beams, "eos_token_id": 3}
        got[kind, beams] = accelerated.generate(**keywords)

    threads = [threading.Thread(target=work, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    for kind, beams in jobs:
        expected = phi.generate(**prompts(kind).keywords(), num_beams=beams, **{**GREEDY, "eos_token_id": 3})
        assert torch.equal(got[kind, beams], expected)


@pytest.fixture
def own() -> Iterator[AcceleratedPhi]:
    with tgv.accelerate(random_phi(max_position_embeddings=4096), kv_tokens=8192, threads=1) as model:
        yield model


@pytest.mark.parametrize("beams", [1, 2], ids=["native", "loop"])
def test_closing_ends_what_runs(beams: int, own: AcceleratedPhi) -> None:
    errors: list[BaseException] = []
    started, closed = threading.Event(), threading.Event()

    class Waiting(LogitsProcessor, BaseStreamer):
        """In the middle of a call while the model is closed."""

        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            self.put(scores)
            return scores

        def put(self, value: Tensor) -> None:
            started.set()
            closed.wait(WAIT_S)

        def end(self) -> None:
            pass

    def work() -> None:
        try:
            extra = {"logits_processor": [Waiting()]} if beams > 1 else {"streamer": Waiting()}
            own.generate(prompts("one").ids, **{**GREEDY, "max_new_tokens": 4000}, num_beams=beams, **extra)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(WAIT_S)
    own.close()
    closed.set()
    thread.join(WAIT_S)
    assert not thread.is_alive() and isinstance(errors[0], ClosedError)
    for use in (lambda: own.generate(prompts("one").ids, max_new_tokens=2), lambda: own(prompts("one").ids)):
        with pytest.raises(ClosedError):
            use()
