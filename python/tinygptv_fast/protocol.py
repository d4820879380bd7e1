"""What the facade and a backend say to each other: a prompt, options, events. Data and signatures; computes nothing.

Events are plain tuples, those of the native engine:

* ``("token", row, id, logprob, top)``: one more id of a row; ``logprob`` is the float32 log-softmax of the unprocessed
  logits, ``top`` a list of (id, logprob)
* ``("end", row, reason, message)``: a row is over; reason is stop, length, deadline, cancelled or error
* ``("beam", rank, ids, score)``, ``("scores", candidate, logprobs)``, ``("logits", array)``: results of those requests
* ``("done", report)``: always last, exactly once; ``report`` has milliseconds (queue, prefill, decode, first_token,
  total) and counts (prompt, cached, generated, ...)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .errors import InvalidArgumentError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from . import _native

Event = tuple[Any, ...]
VISUAL = -1
"""Stands in a prompt's ids where the next row of its embeddings goes."""


@dataclass(frozen=True)
class Grammar:
    """What an answer is held to: "boxes" that parse (``text`` is ""), a "json_schema" (json) or a "regex"."""

    kind: str
    text: str = ""


@dataclass(frozen=True)
class GenerationOptions:
    """Settings of one call; every default is greedy and without hidden filters.

    min_length counts prefix_ids too (the original's rule). temperature/top_k/top_p/min_p apply only if do_sample.
    speculate: guess tokens from the prompt and check them, which changes speed and nothing else.
    grammar: no token is chosen that it does not allow.
    """

    max_new_tokens: int = 20
    min_length: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    num_beams: int = 1
    length_penalty: float = 1.0
    num_return_sequences: int = 1
    eos_ids: tuple[int, ...] = ()
    pad_id: int = 0
    prefix_ids: tuple[int, ...] = ()
    seed: int | None = None
    speculate: bool = False
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "an integer >= 1")
        _require(self.temperature > 0, "temperature", self.temperature, "a number > 0 when sampling")
        _require(self.top_k is None or self.top_k >= 1, "top_k", self.top_k, "None or an integer >= 1")
        _require(self.top_p is None or 0 < self.top_p <= 1, "top_p", self.top_p, "None or 0 < top_p <= 1")
        _require(self.min_p is None or 0 <= self.min_p <= 1, "min_p", self.min_p, "None or 0 <= min_p <= 1")
        _require(self.repetition_penalty > 0, "repetition_penalty", self.repetition_penalty, "a number > 0")
        _require(self.num_beams >= 1, "num_beams", self.num_beams, "an integer >= 1")
        _require(self.num_return_sequences >= 1, "num_return_sequences", self.num_return_sequences, "an integer >= 1")
        _require(not (self.do_sample and self.num_beams > 1), "num_beams", self.num_beams, "1 when do_sample is True")

    @property
    def extras(self) -> list[str]:
        """Names of settings in use beyond those of the original, which not every way of decoding has."""
        names = ("presence_penalty", "frequency_penalty", "logit_bias", "speculate")
        return [name for name in names if getattr(self, name)]


def _require(ok: bool, name: str, value: object, expected: str) -> None:
    if not ok:
        raise InvalidArgumentError(f"{name} is {value!r}, expected {expected}")


@dataclass(frozen=True)
class Prompt:
    """ids int32 [T], ``VISUAL`` where the next row of embeddings goes; embeddings float32 [n, C], None without any.

    pages: keys and values of its first positions, which are not computed then.
    """

    ids: np.ndarray
    embeddings: np.ndarray | None
    pages: _native.PrefixPages | None = None

    @classmethod
    def of(
        cls,
        segments: Sequence[Sequence[int]],
        images: Sequence[np.ndarray],
        pages: _native.PrefixPages | None = None,
    ) -> Prompt:
        """Token segments and pictures [NQ, C] interleaved: segment 0, picture 0, segment 1, ..."""
        ids: list[int] = []
        for index, segment in enumerate(segments):
            ids += segment
            if index < len(images):
                ids += [VISUAL] * len(images[index])
        rows = np.concatenate(images).astype(np.float32, copy=False) if images else None
        return cls(np.array(ids, dtype=np.int32), rows, pages)

    def __len__(self) -> int:
        return len(self.ids)


class Picture(Protocol):
    """An opened picture. ``image``: RGB, upright, at its full size."""

    @property
    def image(self) -> Image:
        """The picture itself."""
        ...

    def pixels(self) -> Tensor:
        """The vision tower's input, float32 [3, S, S]; computed when asked for."""
        ...


class Job(Protocol):
    """A running request. One thread reads it; any thread may cancel it."""

    def poll(self, timeout_s: float) -> list[Event]:
        """Events since the last call, [] if none came within ``timeout_s``. Not to be called after "done"."""
        ...

    def cancel(self) -> None:
        """End it within one token. Twice, or after its end: nothing happens."""
        ...


class Backend(Protocol):
    """What the facade needs of something that computes. Any thread may call it; ``deadline_s`` counts from the call."""

    name: str
    parallel: int  # requests worth having under way at once

    def encode_image(self, picture: Picture, check: Callable[[], None]) -> Tensor:
        """Visual tokens float32 [NQ, C]. ``check`` is called now and then and may raise."""
        ...

    def submit(self, prompt: Prompt, options: GenerationOptions, stops: Sequence[str], deadline_s: float | None) -> Job:
        """Greedy or sampled decoding, ``num_return_sequences`` rows. Rows may run past stop strings."""
        ...

    def submit_beams(self, prompt: Prompt, options: GenerationOptions, deadline_s: float | None) -> Job:
        """Beam search: "beam" events, best first."""
        ...

    def submit_score(self, prompt: Prompt, candidates: Sequence[Sequence[int]], deadline_s: float | None) -> Job:
        """Log-probabilities of each candidate's ids after the prompt: "scores" events."""
        ...

    def logits(self, prompt: Prompt) -> Tensor:
        """float32 [T, V]."""
        ...

    def read_pages(self, prompt: Prompt, check: Callable[[], None]) -> _native.PrefixPages:
        """Keys and values of a prompt of whole pages. ``check`` is called now and then and may raise. Raises
        UnsupportedError where there are none to be had."""
        ...

    def check_pages(self, pages: _native.PrefixPages) -> None:
        """Raises InvalidArgumentError unless they are of these weights and this kind of cache, UnsupportedError where
        none can be used."""
        ...

    def describe(self) -> dict[str, Any]:
        """What it is, for ``TinyGPTV.info``."""
        ...

    def stats(self) -> dict[str, Any]:
        """Counters and gauges now."""
        ...

    def close(self) -> None:
        """Free the weights. Requests under way end as cancelled; later calls raise ClosedError."""
        ...
