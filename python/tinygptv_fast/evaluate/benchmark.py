"""What a data set consists of for the evaluation: its reader, how it is asked, its two scorers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..compat.vqa import postprocess_chat
from ..data.judging import plain
from .question import DataSet, Given, Question
from .records import Files

Score = Callable[[Question, Given], float]
Scored = Sequence[tuple[Question, Given]]


@dataclass(frozen=True)
class Whole:
    """A measure of a whole set. prepare: from the answers to the measure of those at given indices, which is None where
    it is not defined."""

    name: str
    prepare: Callable[[Scored], Callable[[np.ndarray], float | None]]


@dataclass(frozen=True)
class Benchmark:
    """One data set.

    name, title: for the command line and for people. read: its files. task: the tag of the plain protocol. wording: the
    original's evaluation wording with its tag, ``{}`` for the question. template: that of the original's script.
    strict, paper: the score of one answer, 0..1 (the original's may count an item twice); paper is None where the
    original scores nothing of the kind. measure: what the strict score is called. candidates: what is ranked instead of
    generated (``generates`` False) or besides. whole: measures of the set that are no mean. column: that of the paper's
    result table. limit: the original's longest answer in tokens. notes: what the two scorers are, for the report.
    """

    name: str
    title: str
    read: Callable[[Files], DataSet]
    task: str
    wording: str
    strict: Score
    paper: Score | None
    notes: tuple[str, ...]
    measure: str = "accuracy"
    candidates: Callable[[Question], tuple[str, ...]] = lambda question: ()
    generates: bool = True
    whole: tuple[Whole, ...] = ()
    column: str | None = None
    template: str = "minigptv2"
    limit: int = 20
    needs_annotations: bool = False
    needs: Callable[[], None] = lambda: None


def trimmed(given: Given) -> str:
    """The answer as the field's scorers get it: up to '###', what follows the last 'Assistant:', stripped."""
    return postprocess_chat(given.text)


def same(answer: str, truth: str) -> bool:
    """Equal but for case, white space, Unicode's compatibility forms and a full stop at the end."""
    return plain(answer) == plain(truth)
