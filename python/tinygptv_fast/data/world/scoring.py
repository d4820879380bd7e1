"""Whether an answer is right, kind by kind, and the tally of an examination."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ..question import Question
from ..scoring import grounded, read_boxes, same_boxes
from .lexicon import ONLY_KNOWN

_ARTICLE = re.compile(r"^(a|an|the) ")


def is_right(question: Question, answer: str) -> bool:
    """True when ``answer`` is right for ``question``.

    Words, numbers, yes and no, names, refusals: equal after trimming. One box (refer, also at the end of a dialogue):
    one well-formed box with IoU > 0.5. detection, grounding: the same phrases, each with as many boxes, each with IoU
    > 0.5. caption: the same things, in any order.
    """
    given, true = answer.strip(), question.answer
    if question.refusal:
        return given == true
    if question.task == "refer":
        return same_boxes(read_boxes(given), read_boxes(true))
    if question.task in ("detection", "grounding"):
        wanted, found = grounded(true), grounded(given)
        return wanted.keys() == found.keys() and all(same_boxes(found[name], wanted[name]) for name in wanted)
    if question.task == "caption":
        return caption_things(given) == caption_things(true)
    return given == true


def caption_things(text: str) -> Counter[str]:
    """The things a caption names, without articles, each with how often."""
    parts = re.split(r", | and ", text.strip())
    return Counter(_ARTICLE.sub("", part) for part in parts)


def refuses(answer: str) -> bool:
    """Whether the answer says that something is not there or not known."""
    given = answer.strip()
    return given == ONLY_KNOWN or given.startswith(("there is no ", "there are no "))


@dataclass(frozen=True)
class Tally:
    """Of one kind: questions asked, answered right, and refused although there was an answer."""

    asked: int
    right: int
    refused: int


def tally(answered: Iterable[tuple[Question, str]]) -> dict[str, Tally]:
    """Per kind, from pairs of question and given answer."""
    counts: dict[str, list[int]] = {}
    for question, answer in answered:
        row = counts.setdefault(question.kind, [0, 0, 0])
        row[0] += 1
        row[1] += is_right(question, answer)
        row[2] += not question.refusal and refuses(answer)
    return {kind: Tally(*row) for kind, row in counts.items()}
