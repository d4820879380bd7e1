"""Instructions: LLaVA's three files and the multi-task conversations, which share their form, and Unnatural
Instructions, which have no picture.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .items import Item
from .pictures import Picture, check_name_form, name_of
from .reading import Reading
from .record import Ask, Record
from .texts import boxed, usable

_MARK = "<image>"
_ROLES = (("human", "user"), ("gpt", "assistant"))
_GIVEN = re.compile(r"\{\s*(<-?\d+>)")  # a box in a question


@dataclass(frozen=True)
class LlavaSettings:
    """annotations: the json file; images: folders of pictures.

    image_name: the picture's name made of the record's id, as the original does; empty: the record's ``image`` names it
    (a record without one is text alone). first_turn: only the first question, cleaned up, as the original reads detail
    and reasoning (llava_dataset.py); else whole conversations, texts as they are.
    """

    annotations: Path
    images: tuple[Path, ...]
    image_name: str = "COCO_train2014_{}.jpg"
    first_turn: bool = False

    def __post_init__(self) -> None:
        if self.image_name:
            check_name_form(self.image_name, "image_name")


def read_llava(settings: LlavaSettings, reading: Reading) -> list[Record]:
    """``[{"id": "000000033471", "conversations": [{"from": "human", "value": "<image>\\nq"}, {"from": "gpt", ...}]}]``.

    ``<image>`` stands in the first question alone and is taken out of it, as are all its line breaks: the picture
    stands in front whatever its place was (llava_dataset.py, multitask_conversation.py).
    """
    path = settings.annotations

    def parse(item: Item, index: int) -> Iterator[Record]:
        turns = _turns(item)
        picture = _picture(settings, item, reading)
        if settings.first_turn:
            turns = turns[:1]
        asks = [_ask(pair, number, clean=settings.first_turn) for number, pair in enumerate(turns)]
        yield Record(str(path), index, tuple(asks), picture)

    return reading.collect(path, reading.records(path), parse)


def _picture(settings: LlavaSettings, item: Item, reading: Reading) -> Picture | None:
    if settings.image_name:
        return reading.picture(name_of(settings.image_name, item.id("id")), item)
    return reading.picture(item.text("image"), item) if "image" in item else None


def _turns(item: Item) -> list[tuple[Item, Item]]:
    """Question and answer, in pairs. Raises BadRecord unless they alternate, a question first."""
    turns = item.items("conversations")
    for number, turn in enumerate(turns):
        roles = _ROLES[number % 2]
        if turn.text("from") not in roles:
            turn.fail(f"it is from {turn.get('from')!r:.60}, expected {roles[0]!r}: they alternate, 'human' first")
    if not turns or len(turns) % 2:
        item.fail(f"it has {len(turns)} turns, expected questions and answers in pairs")
    return list(zip(turns[::2], turns[1::2], strict=True))


def _ask(pair: tuple[Item, Item], number: int, *, clean: bool) -> Ask:
    question, answer = pair
    text = question.text("value")
    if _MARK in text and number:
        question.fail(f"it has {_MARK}, expected it in the first question alone")
    if not number:
        text = text.replace(_MARK, "").replace("\n", "")
    asked = usable(text, "question", question.where, clean=clean)
    if _GIVEN.search(asked):
        asked = boxed(asked, "question", question.where)
    return Ask((boxed(answer.text("value"), "answer", answer.where),), (asked,))


@dataclass(frozen=True)
class TextSettings:
    """annotations: a json list, or ``.jsonl`` with a record on each line."""

    annotations: Path
    clean: bool = True


def read_unnatural(settings: TextSettings, reading: Reading) -> list[Record]:
    """``[{"instances": [{"instruction_with_input", "constraints", "output"}]}]``: of each record the first instance,
    its constraints behind the instruction where there are some (unnatural_instruction.py)."""
    path = settings.annotations

    def parse(item: Item, index: int) -> Iterator[Record]:
        instances = item.items("instances")
        if not instances:
            item.fail("its instances are empty, expected at least one")
        first = instances[0]
        question = first.text("instruction_with_input")
        if first.get("constraints") is not None:
            question = f"{question} {first.text('constraints')}"
        asked = usable(question, "instruction", item.where, clean=settings.clean)
        answer = usable(first.text("output"), "output", item.where, clean=settings.clean)
        yield Record(str(path), index, (Ask((answer,), (asked,)),))

    return reading.collect(path, reading.records(path), parse)
