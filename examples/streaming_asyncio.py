"""Stream answers to several people at once from one event loop, and let one of them hang up.

Requests are decoded together. Leaving a stream, or cancelling its task, ends its request within a token.

Run: python examples/streaming_asyncio.py [PICTURE [MODEL]]
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from typing import Any

import tinygptv_fast as tgv
from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.layout import arrange

QUESTIONS = ["How many shapes are there?", "What colour is the star?", "What shape is red?"]


async def follow(model: tgv.TinyGPTV, state: Any, name: str, question: str) -> str:
    """Print the pieces of one answer as they come; returns the whole."""
    async with aclosing(model.astream(state, question, task="vqa")) as pieces:
        async for piece in pieces:
            print(f"[{name}] {piece.text!r}")
            if piece.answer is not None:
                return piece.answer.text
    return ""


async def main(arguments: list[str]) -> None:
    picture = arguments[0] if arguments else draw(arrange("red circle left of blue star", 5), 384)
    with tgv.TinyGPTV.from_pretrained(arguments[1] if len(arguments) > 1 else "demo") as model:
        state = await model.aencode_image(picture)
        answers = await asyncio.gather(*(follow(model, state, f"caller {n}", q) for n, q in enumerate(QUESTIONS)))
        print(answers)

        long = asyncio.create_task(model.agenerate(state, "[grounding] please describe this image in details"))
        await asyncio.sleep(0)
        long.cancel()  # a caller who hangs up
        try:
            await long
        except asyncio.CancelledError:
            print("the request is gone; running now:", model.stats()["running"])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
