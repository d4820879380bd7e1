"""What ``generate`` returns. Plain data, json-ready."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from ..processing.boxes import Boxes

SCHEMA_VERSION = 1
FINISH_REASONS = ("stop", "length", "deadline", "cancelled", "error")


@dataclass(frozen=True)
class Usage:
    """Counts of tokens: ``prompt`` includes the visual tokens, which ``image`` counts alone, and ``cached``, those
    whose keys and values were there: in the KV cache, or in the pages of an image state. What was asked before decides
    the last, so it takes no part in ``==``."""

    prompt: int
    image: int
    generated: int
    cached: int = field(default=0, compare=False)


@dataclass
class Timings:
    """Milliseconds of one request. ``first_token`` counts from the call; ``total`` is wall time of the call."""

    preprocess: float = 0.0
    vision: float = 0.0
    queue: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    first_token: float = 0.0
    total: float = 0.0


@dataclass(frozen=True)
class Answer:
    """One answer.

    text: what the model said, cut before the first stop string (template "raw": uncut). token_ids: generated ids only,
    no BOS, no pad, the end token included if it was produced. logprobs: float32 log-softmax of the unprocessed logits
    at those ids. boxes: in pixels of the upright original picture. probability: the product of the token
    probabilities; confidence: how likely the answer is right, by the directory's calibration; None without one, and for
    an answer cut short; of choices: given that one of them is right. finish_reason: one of ``FINISH_REASONS``.
    alternatives: the other sequences when several were asked for, best first. dropped_turns: how many of a chat's
    oldest turns were left out so that the prompt fits. json: what ``text`` says if a ``json_schema`` was given, of
    finite numbers; None also if it is not whole (finish_reason other than stop).
    """

    text: str
    token_ids: list[int]
    logprobs: list[float]
    boxes: Boxes
    probability: float
    finish_reason: str
    usage: Usage
    timings: Timings
    confidence: float | None = None
    alternatives: list[Answer] = field(default_factory=list)
    dropped_turns: int = 0
    json: Any = None

    def to_dict(self) -> dict[str, Any]:
        """Json-ready; carries ``schema_version``."""
        return {
            "schema_version": SCHEMA_VERSION,
            "text": self.text,
            "token_ids": list(self.token_ids),
            "logprobs": list(self.logprobs),
            "boxes": self.boxes.to_dict(),
            "probability": self.probability,
            "confidence": self.confidence,
            "finish_reason": self.finish_reason,
            "usage": dataclasses.asdict(self.usage),
            "timings": dataclasses.asdict(self.timings),
            "alternatives": [other.to_dict() for other in self.alternatives],
            "dropped_turns": self.dropped_turns,
            "json": self.json,
        }

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Piece:
    """One piece of a streamed answer; pieces joined give ``Answer.text`` up to surrounding white space.

    ``answer`` is None on all pieces but the last, which carries the whole answer (its ``text`` may be empty).
    """

    text: str
    answer: Answer | None = None
