"""One record of a data set, before chance has its say: which wordings, which of several answers, which picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..examples import Example, Turn
from ..randomness import pick


class Pictured(Protocol):
    """Where a picture is: a file, or a place in an archive."""

    def load(self) -> object:
        """A path, or the bytes of a picture file. Raises BadRecord."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One question. A wording is drawn, its ``{}`` filled with one of ``fills``; one of ``answers`` is the answer.

    answers: as the data list them, repetitions included, so that each is drawn with its weight (the original's
    answer_weight). wordings: none means that the stage's config has the prompts.
    """

    answers: tuple[str, ...]
    fills: tuple[str, ...] = ("",)
    wordings: tuple[str, ...] = ("{}",)

    def turn(self, rng: np.random.Generator) -> Turn:
        """One draw."""
        answer = pick(rng, self.answers)
        accepted = tuple(dict.fromkeys(self.answers)) if len(self.answers) > 1 else ()
        if not self.wordings:
            return Turn(None, answer, accepted)
        return Turn(pick(rng, self.wordings).replace("{}", pick(rng, self.fills)), answer, accepted)


@dataclass(frozen=True, slots=True)
class Record:
    """What one record of a file says. source, index: file and place in it."""

    source: str
    index: int
    asks: tuple[Ask, ...]
    picture: Pictured | None = None
    task: str | None = None
    choices: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        return where(self.source, self.index)

    def example(self, rng: np.random.Generator) -> Example:
        """One draw, its picture named or, in an archive, read. Raises BadRecord."""
        images = () if self.picture is None else (self.picture.load(),)
        return Example(tuple(ask.turn(rng) for ask in self.asks), images, self.task, self.where, self.choices)


def where(source: str, index: int) -> str:
    """How a record is named in errors; records are counted from 0."""
    return f"{source}: record {index}"
