"""What a data set asks, what a model said, and what could not be asked. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

Quad = tuple[float, float, float, float]


@dataclass(frozen=True)
class Target:
    """A box to be found: ``xywh`` (left, top, width, height) in pixels of a ``width`` x ``height`` picture."""

    xywh: Quad
    width: float
    height: float

    @property
    def xyxy(self) -> Quad:
        x, y, w, h = self.xywh
        return (x, y, x + w, y + h)


@dataclass(frozen=True)
class Question:
    """One question of a data set.

    id: unique in the data set. where: file and record, for messages. text: question, statement, phrase or text on the
    picture as the file has it; "" where the file asks nothing (captions). truths: the accepted answers or references.
    choices: what is chosen among. label: the class of a two-class question (1: true, hateful), or the index of the
    right choice. target: the box to be found; paper_target: the one that the original's script compares with.
    """

    id: str
    where: str
    image: Path
    text: str
    truths: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    label: int | None = None
    target: Target | None = None
    paper_target: Target | None = None


@dataclass(frozen=True)
class Given:
    """What the model said. text: untrimmed where the protocol leaves it so. choices: of each candidate the mean
    log-probability of its tokens. seconds: its share of the time of the batch it was asked in. words: how many it
    wrote (0 where it only chose)."""

    text: str
    choices: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    words: int = 0


@dataclass(frozen=True)
class Skipped:
    """A record that could not be asked. where: file and record. why: one clause."""

    where: str
    why: str


@dataclass(frozen=True)
class DataSet:
    """What the files held. digest: sha256 of the files' bytes. records: how many there were, good and bad."""

    files: tuple[str, ...]
    questions: tuple[Question, ...]
    skipped: tuple[Skipped, ...]
    digest: str
    records: int
