"""What is learnt from: a question with its answer, and one row of them with its pictures. Strings and pictures only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Turn:
    """One question and its answer. question None: one of the config's prompts is put. accepted: every answer that
    counts as right, where the data name several; training takes ``answer``."""

    question: str | None
    answer: str
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Example:
    """One row of training.

    images: each a path, the bytes of a picture file, a PIL picture, or the Q-Former's rows for it, f32 [NQ, Q]; they
    stand before the first question. task: a tag's name, put before each question, or None. where: file and record, for
    errors. choices: what the last question may be answered with, () where anything; training does not look at them.
    """

    turns: tuple[Turn, ...]
    images: tuple[Any, ...] = ()
    task: str | None = None
    where: str = ""
    choices: tuple[str, ...] = ()
