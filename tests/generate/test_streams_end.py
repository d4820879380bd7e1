"""Whatever fails, wherever: the error arrives, the stream ends, the request is gone and the next one is served."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

import tinygptv_fast as tgv
from tinygptv_fast.compat import Chat as OriginalChat
from tinygptv_fast.compat import CONV_VISION_Vicuna0
from tinygptv_fast.errors import TinyGPTVError
from tinygptv_fast.generate.answer import Piece
from tinygptv_fast.processing.tokenizer import StreamDecoder

PICTURE = str(Path(__file__).parents[1] / "golden" / "images" / "img0.png")
LONG = {"max_new_tokens": 200}
WAIT_S = 20.0


@pytest.fixture(scope="module")
def model(directories: dict[str, Path]) -> Iterator[tgv.TinyGPTV]:
    with tgv.TinyGPTV.from_pretrained(directories["B_stage4"], threads=1) as opened:
        yield opened


def generate(model: tgv.TinyGPTV) -> None:
    model.generate(PICTURE, "where?", **LONG)


def stream(model: tgv.TinyGPTV) -> None:
    for _ in model.stream(PICTURE, "where?", **LONG):
        pass


def batch(model: tgv.TinyGPTV) -> None:
    model.generate_batch([{"image": PICTURE, "prompt": "where?", **LONG}] * 3)


def agenerate(model: tgv.TinyGPTV) -> None:
    asyncio.run(model.agenerate(PICTURE, "where?", **LONG))


def astream(model: tgv.TinyGPTV) -> None:
    async def read() -> None:
        async for _ in model.astream(PICTURE, "where?", **LONG):
            pass

    asyncio.run(read())


def chat(model: tgv.TinyGPTV) -> None:
    model.chat(PICTURE).ask("where?", **LONG)


def achat(model: tgv.TinyGPTV) -> None:
    async def read() -> None:
        async for _ in model.chat().astream("where?", image=PICTURE, **LONG):
            pass

    asyncio.run(read())


def rank(model: tgv.TinyGPTV) -> None:
    model.rank(PICTURE, "where?", ["near the tree", "behind the house", "nowhere to be seen"])


def beams(model: tgv.TinyGPTV) -> None:
    model.generate(PICTURE, "where?", num_beams=2, max_new_tokens=12)


def refer(model: tgv.TinyGPTV) -> None:
    model.refer(PICTURE, "the dog", boxes="free", **LONG)


def kept_errors(model: tgv.TinyGPTV) -> None:
    """Of a batch that keeps errors in their places, each is one; the first is raised here."""
    answers = model.generate_batch([{"image": PICTURE, "prompt": "where?", **LONG}] * 2, on_error="return")
    raise next(one for one in answers if isinstance(one, Exception))


def original(model: tgv.TinyGPTV) -> None:
    talk, conversation, pictures = OriginalChat(model), CONV_VISION_Vicuna0.copy(), []
    talk.upload_img(PICTURE, conversation, pictures)
    talk.encode_img(pictures)
    talk.ask("where?", conversation)
    for _ in talk.stream_answer(conversation, pictures, max_new_tokens=100, do_sample=False):
        pass


CALLS = [generate, stream, batch, agenerate, astream, chat, achat, rank, beams, refer, kept_errors, original]


class Broken(Exception):
    """What the tests inject."""


def break_vision(model: tgv.TinyGPTV, patch: pytest.MonkeyPatch) -> None:
    def encode(*_: Any) -> Any:
        raise Broken("in vision")

    patch.setattr(model._backend, "encode_image", encode)


def break_tokenizer(model: tgv.TinyGPTV, patch: pytest.MonkeyPatch) -> None:
    del model
    put, count = StreamDecoder.put, 0

    def fail(self: StreamDecoder, index: int) -> str:
        nonlocal count
        count += 1
        if count == 3:
            raise Broken("in tokenizer")
        return put(self, index)

    patch.setattr(StreamDecoder, "put", fail)


def break_encoding(model: tgv.TinyGPTV, patch: pytest.MonkeyPatch) -> None:
    def encode(*_: Any) -> Any:
        raise Broken("in encode")

    patch.setattr(model.tokenizer, "encode", encode)


SUBMITS = ("submit", "submit_beams", "submit_score")


def break_submit(model: tgv.TinyGPTV, patch: pytest.MonkeyPatch) -> None:
    def submit(*_: Any) -> Any:
        raise Broken("in submit")

    for name in SUBMITS:
        patch.setattr(model._backend, name, submit)


def wrap_jobs(model: tgv.TinyGPTV, patch: pytest.MonkeyPatch, kind: Callable[[Any], Any]) -> None:
    """Every job that the backend gives out is ``kind(job)``."""
    for name in SUBMITS:
        submit = getattr(model._backend, name)
        patch.setattr(model._backend, name, lambda *args, submit=submit: kind(submit(*args)))


def break_engine(model: tgv.TinyGPTV, patch: pytest.MonkeyPatch) -> None:
    """Every request is cancelled at its first event, and its rows end as rows do that the engine gives up."""

    class Job:
        def __init__(self, job: Any) -> None:
            self._job = job
            self.cancel = job.cancel

        def poll(self, timeout_s: float) -> list[tuple[Any, ...]]:
            events = self._job.poll(timeout_s)
            self._job.cancel()
            return [("end", e[1], "error", "Broken in engine") if e[0] == "end" else e for e in events]

    wrap_jobs(model, patch, Job)


def break_poll(model: tgv.TinyGPTV, patch: pytest.MonkeyPatch) -> None:
    """Events cannot be had once, in the midst of an answer."""

    class Job:
        def __init__(self, job: Any) -> None:
            self._job, self._broken = job, False
            self.cancel = job.cancel

        def poll(self, timeout_s: float) -> list[tuple[Any, ...]]:
            if not self._broken:
                self._broken = True
                raise Broken("in poll")
            events: list[tuple[Any, ...]] = self._job.poll(timeout_s)
            return events

    wrap_jobs(model, patch, Job)


STAGES = [break_vision, break_tokenizer, break_encoding, break_submit, break_engine, break_poll]


def idle(model: tgv.TinyGPTV) -> bool:
    stats = model.stats()
    return not stats["running"] and not stats["waiting"]


def wait_until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("stage", STAGES)
def test_an_error_anywhere_arrives_and_nothing_is_left(
    model: tgv.TinyGPTV, monkeypatch: pytest.MonkeyPatch, stage: Callable[..., None], call: Callable[..., None]
) -> None:
    with monkeypatch.context() as patch:
        stage(model, patch)
        with pytest.raises((Broken, TinyGPTVError), match=r"in (vision|tokenizer|encode|submit|poll)|Broken in engine"):
            call(model)
        wait_until(lambda: idle(model))
    assert len(model.generate(None, "where?", max_new_tokens=3).token_ids) == 3


def test_an_end_that_came_with_the_failing_piece_is_not_waited_for(
    model: tgv.TinyGPTV, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All events lie ready, the last one too, when the first of them cannot be decoded."""
    with monkeypatch.context() as patch:
        submit = model._backend.submit  # type: ignore[union-attr]

        def finished(*args: Any) -> Any:
            job = submit(*args)
            wait_until(lambda: idle(model))
            return job

        patch.setattr(model._backend, "submit", finished)
        break_tokenizer(model, patch)
        with pytest.raises(Broken):
            model.generate(None, "where?", max_new_tokens=8)


@pytest.mark.parametrize("closing", [True, False])
def test_a_consumer_that_raises_ends_the_request(model: tgv.TinyGPTV, closing: bool) -> None:
    async def consume() -> None:
        pieces = model.astream(None, "where?", max_new_tokens=400)
        if closing:
            async with aclosing(pieces):
                async for _ in pieces:
                    raise Broken
        async for _ in pieces:
            raise Broken

    with pytest.raises(Broken):
        asyncio.run(consume())
    wait_until(lambda: idle(model))
    with pytest.raises(Broken):
        for _ in model.stream(None, "where?", max_new_tokens=400):
            raise Broken
    wait_until(lambda: idle(model))


def test_a_consumer_that_raises_in_a_talk_leaves_it_usable(model: tgv.TinyGPTV) -> None:
    talk = model.chat(PICTURE, max_new_tokens=100)
    whole = 0  # on a busy machine the first piece may be all there is: that turn was had

    def broken(piece: Piece) -> None:
        nonlocal whole
        whole += piece.answer is not None
        raise Broken

    async def consume() -> None:
        async for piece in talk.astream("where?"):
            broken(piece)

    def read() -> None:
        for piece in talk.stream("where?"):
            broken(piece)

    for call in (read, lambda: asyncio.run(consume())):
        with pytest.raises(Broken):
            call()
        wait_until(lambda: idle(model))
        assert len(talk) == whole and len(talk.messages) == 2 * whole
    assert talk.ask("where?", max_new_tokens=3).usage.generated == 3


def test_a_consumer_of_the_originals_stream_that_raises(model: tgv.TinyGPTV) -> None:
    talk, conversation, pictures = OriginalChat(model), CONV_VISION_Vicuna0.copy(), [PICTURE]
    conversation.add_image()
    talk.encode_img(pictures)
    talk.ask("where?", conversation)
    with pytest.raises(Broken):
        for _ in talk.stream_answer(conversation, pictures, max_new_tokens=100, do_sample=False):
            raise Broken
    wait_until(lambda: idle(model))


def test_events_that_never_come_again_are_not_waited_for(model: tgv.TinyGPTV, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the end of a request that is given up: the error arrives, and the engine has been told to cancel."""

    class Job:
        def __init__(self, job: Any) -> None:
            self.cancel = job.cancel

        def poll(self, timeout_s: float) -> list[tuple[Any, ...]]:
            raise Broken("in poll")

    with monkeypatch.context() as patch:
        wrap_jobs(model, patch, Job)
        for call in (generate, stream, batch, astream):
            with pytest.raises(Broken):
                call(model)
            wait_until(lambda: idle(model))


def test_cancelling_a_task_ends_its_request_within_a_token(model: tgv.TinyGPTV) -> None:
    async def cancel() -> int:
        with model._backend.engine.turn():  # type: ignore[union-attr]  # no step runs meanwhile
            task = asyncio.create_task(model.agenerate(None, "where?", max_new_tokens=400))
            while idle(model):
                await asyncio.sleep(0.01)
            before: int = model.stats()["generated_tokens"]
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return before

    before = asyncio.run(cancel())
    wait_until(lambda: idle(model))
    assert model.stats()["generated_tokens"] - before <= 1


def test_cancelling_while_the_picture_is_seen(model: tgv.TinyGPTV, monkeypatch: pytest.MonkeyPatch) -> None:
    seeing = threading.Event()

    def encode(picture: Any, check: Callable[[], None]) -> Any:
        seeing.set()
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            check()  # raises once cancelled
            time.sleep(0.005)
        raise AssertionError("never cancelled")

    async def cancel(call: Callable[[], Any]) -> None:
        seeing.clear()
        task = asyncio.ensure_future(call())
        while not seeing.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    monkeypatch.setattr(model._backend, "encode_image", encode)
    asyncio.run(cancel(lambda: model.agenerate(PICTURE, "where?")))
    asyncio.run(cancel(lambda: model.aencode_image(PICTURE)))
    asyncio.run(cancel(lambda: model.chat().aask("where?", image=PICTURE)))


def test_several_event_loops_at_once(model: tgv.TinyGPTV) -> None:
    expected = model.generate(None, "where?", max_new_tokens=12).token_ids
    found: list[list[int]] = []

    async def several() -> None:
        answers = await asyncio.gather(*(model.agenerate(None, "where?", max_new_tokens=12) for _ in range(4)))
        pieces = [piece async for piece in model.astream(None, "where?", max_new_tokens=12)]
        assert pieces[-1].answer is not None
        found.extend([*(answer.token_ids for answer in answers), pieces[-1].answer.token_ids])

    threads = [threading.Thread(target=lambda: asyncio.run(several())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert found == [expected] * 15


def test_no_thread_is_left(directories: dict[str, Path]) -> None:
    def ours() -> int:
        return sum(thread.name.startswith("tinygptv") for thread in threading.enumerate())

    before = ours()
    opened = tgv.TinyGPTV.from_pretrained(directories["B_stage4"], threads=1)

    async def use() -> None:
        calls = [opened.agenerate(None, "where?", max_new_tokens=4) for _ in range(6)]
        await asyncio.gather(*calls)
        for _ in range(6):
            async for _ in opened.astream(None, "where?", max_new_tokens=100):
                break
        task = asyncio.create_task(opened.agenerate(None, "where?", max_new_tokens=400))
        await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(use())
    between = ours()
    asyncio.run(use())
    assert ours() <= between + 8, "threads are used again"
    opened.close()
    wait_until(lambda: ours() <= before)
