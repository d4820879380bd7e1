"""What the race asks of an engine."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from layout import Prompt


@dataclass
class Run:
    """One call of ``generate``. ``steps``: seconds of each decode step, in which every sequence got one token.

    An engine whose steps cannot be seen from outside leaves ``steps`` empty and gives the tokens and seconds of a
    stretch in which all sequences were decoding.
    """

    prefill_seconds: float
    steps: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0

    @property
    def decode_seconds(self) -> float:
        return sum(self.steps) if self.steps else self.seconds


class Engine(Protocol):
    """A loaded model. The constructor takes the model's path, the number of threads and the entry's own options."""

    def generate(self, prompts: list[Prompt], new_tokens: int) -> Run:
        """Prefill all prompts (all of one length) and decode ``new_tokens`` greedily for each, ignoring end tokens.

        The first token belongs to the prefill; the other ``new_tokens - 1`` are steps.
        """
        ...

    def logits(self, prompt: Prompt) -> np.ndarray:
        """float32 [T, V]: the logits at every position."""
        ...

    def about(self) -> dict[str, Any]:
        """Version and settings, for the record."""
        ...


class Timer:
    """``with Timer() as t: ...`` then ``t.seconds``."""

    seconds = 0.0

    def __enter__(self) -> Timer:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
