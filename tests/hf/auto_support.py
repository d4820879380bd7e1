"""The demo behind the Auto classes, questions about drawn pictures, and what ``TinyGPTV`` answers to them."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image, ImageDraw

import tinygptv_fast as tgv

Messages = list[dict[str, Any]]


def picture(shape: str = "circle", colour: str = "red") -> Image.Image:
    """A shape on white, 200x150."""
    image = Image.new("RGB", (200, 150), "white")
    draw = ImageDraw.Draw(image)
    {"circle": draw.ellipse, "square": draw.rectangle}[shape]((30, 40, 90, 100), fill=colour)
    return image


def question(text: str, *pictures: Any) -> Messages:
    """A conversation of one message: its pictures, then the text."""
    parts: list[dict[str, Any]] = [{"type": "image", "image": one} for one in pictures]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


CIRCLE, SQUARE = picture(), picture("square", "blue")
CONVERSATIONS: list[Messages] = [
    question("[vqa] What colour is the circle?", CIRCLE),
    question("[grounding] please describe this image in details", SQUARE),
    question("[grounding] please describe this image in details", CIRCLE, SQUARE),
    question("hello there, what is this?"),
    [
        *question("[vqa] What colour is the square?", SQUARE),
        {"role": "assistant", "content": "blue"},
        {"role": "user", "content": "[vqa] What shape is it?"},
    ],
]
"""One picture, a longer answer, two pictures, text alone, and a second turn: rows of five lengths."""


def expected(model: tgv.TinyGPTV, conversation: Messages, **settings: Any) -> list[list[int]]:
    """Ids of ``TinyGPTV.generate``, alternatives after the answer."""
    answer = model.generate(messages=conversation, boxes="free", **settings)
    return [answer.token_ids, *(other.token_ids for other in answer.alternatives)]


def generated(sequences: torch.Tensor, columns: int, lengths: list[int], pad: int) -> list[list[int]]:
    """Rows behind the prompt, each cut to the length it should have. What follows must be padding."""
    rows = []
    for row, length in zip(sequences[:, columns:].tolist(), lengths, strict=True):
        assert row[length:] == [pad] * (len(row) - length), row
        rows.append(row[:length])
    return rows
