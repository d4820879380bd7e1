"""Coroutines: the same answers, many at once, and a cancelled task ends its request."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import tinygptv_fast as tgv
from tinygptv_fast.errors import InvalidArgumentError, PromptError


def test_agenerate_is_generate(stage4: tgv.TinyGPTV) -> None:
    prompts = ["where?", "a dog", "why is it there?"]
    golden = [stage4.generate(None, prompt, max_new_tokens=6).token_ids for prompt in prompts]

    async def ask() -> list[list[int]]:
        answers = await asyncio.gather(*(stage4.agenerate(None, prompt, max_new_tokens=6) for prompt in prompts))
        return [answer.token_ids for answer in answers]

    assert asyncio.run(ask()) == golden


def test_astream_is_stream(stage4: tgv.TinyGPTV) -> None:
    async def read() -> list[tgv.generate.Piece]:
        return [piece async for piece in stage4.astream(None, "where?", max_new_tokens=8)]

    *_, last = asyncio.run(read())
    golden = stage4.generate(None, "where?", max_new_tokens=8)
    assert last.answer is not None
    assert (last.answer.token_ids, last.answer.text) == (golden.token_ids, golden.text)


def test_errors_come_through(stage4: tgv.TinyGPTV) -> None:
    async def stream(**settings: Any) -> None:
        async for _ in stage4.astream(None, "x", **settings):
            pass

    with pytest.raises(PromptError, match="prompt is None"):
        asyncio.run(stage4.agenerate(None))
    with pytest.raises(InvalidArgumentError, match="max_new_tokens is 0"):
        asyncio.run(stream(max_new_tokens=0))
    with pytest.raises(InvalidArgumentError, match="neither choices nor num_beams"):
        asyncio.run(stream(num_beams=2))


def test_leaving_an_astream_ends_its_request(native: tgv.TinyGPTV) -> None:
    async def leave() -> None:
        pieces = native.astream(None, "where?", max_new_tokens=400)
        async for _ in pieces:
            break
        await pieces.aclose()  # type: ignore[attr-defined]
        while native.stats()["running"]:
            await asyncio.sleep(0.01)

    asyncio.run(leave())


def test_a_cancelled_task_ends_its_request(native: tgv.TinyGPTV) -> None:
    async def cancel() -> None:
        with native._backend.engine.turn():  # type: ignore[union-attr]  # no step runs meanwhile
            task = asyncio.create_task(native.agenerate(None, "where?", max_new_tokens=400))
            while not (native.stats()["running"] or native.stats()["waiting"]):
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        while native.stats()["running"] or native.stats()["waiting"]:
            await asyncio.sleep(0.01)

    asyncio.run(cancel())
    assert len(native.generate(None, "where?", max_new_tokens=3).token_ids) == 3
