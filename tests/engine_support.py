"""What tests of the native engine share: small models, and a request read to its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch

from model.support import pack, random_backbone, small_config, stored_tensors
from tinygptv_fast import _native
from tinygptv_fast.reference.phi import PhiBackbone

CONFIG = small_config(layers=2, max_positions=512)
WAIT_S = 60.0  # far more than any of these takes: only a hang ends so


@cache
def backbone() -> PhiBackbone:
    """The float32 weights that everything here is made from."""
    return random_backbone(CONFIG)


@cache
def weights(form: str = "f32") -> _native.Weights:
    """The same weights, packed."""
    return pack(CONFIG, stored_tensors(backbone(), form), form)


def token_bytes() -> list[bytes]:
    """Ids 0..25 are the letters, id 26 is '##' and the others are two letters each; the last one is special."""
    letters = [bytes([97 + i]) for i in range(26)]
    return [*letters, b"##", *[bytes([97 + i % 26, 97 + i // 26]) for i in range(27, CONFIG.vocab_size - 1)], b""]


def engine(form: str = "f32", **settings: Any) -> _native.Engine:
    """An exact engine by default: float32 weights, keys and values."""
    defaults: dict[str, Any] = {"threads": 1, "kv_kind": "f32", "kv_tokens": 4096, "token_bytes": token_bytes()}
    return _native.Engine(weights(form), **{**defaults, **settings})


@dataclass
class Answer:
    """Everything a request said."""

    ids: dict[int, list[int]] = field(default_factory=dict)
    logprobs: dict[int, list[float]] = field(default_factory=dict)
    top: dict[int, list[list[tuple[int, float]]]] = field(default_factory=dict)
    ends: dict[int, str] = field(default_factory=dict)
    message: str = ""
    beams: list[tuple[list[int], float]] = field(default_factory=list)
    scores: dict[int, list[float]] = field(default_factory=dict)
    logits: list[np.ndarray] = field(default_factory=list)
    done: dict[str, float] | None = None

    def take(self, event: tuple[Any, ...]) -> None:
        """One event. Asserts the order that is promised."""
        assert self.done is None
        kind, rest = event[0], event[1:]
        if kind == "token":
            sample, token, logprob, top = rest
            assert sample not in self.ends
            self.ids.setdefault(sample, []).append(token)
            self.logprobs.setdefault(sample, []).append(logprob)
            self.top.setdefault(sample, []).append(top)
        elif kind == "end":
            assert rest[0] not in self.ends
            self.ends[rest[0]], self.message = rest[1], rest[2]
        elif kind == "beam":
            assert rest[0] == len(self.beams)
            self.beams.append((rest[1], rest[2]))
        elif kind == "scores":
            self.scores[rest[0]] = rest[1]
        elif kind == "logits":
            self.logits.append(rest[0])
        else:
            assert kind == "done"
            self.done = rest[0]

    @property
    def text(self) -> tuple[dict[int, list[int]], dict[int, list[float]]]:
        """Ids and log-probabilities: what must be equal bit for bit."""
        return self.ids, self.logprobs


def read(of: _native.Engine, request: int) -> Answer:
    """The request to its end."""
    answer = Answer()
    while answer.done is None:
        events = of.next(request, WAIT_S)
        assert events, "nothing for a minute"
        for event in events:
            answer.take(event)
    return answer


def prompt(count: int, seed: int = 0) -> np.ndarray:
    """Random ids, int32 [count]."""
    return np.random.default_rng(seed).integers(0, CONFIG.vocab_size, count).astype(np.int32)


def ask(of: _native.Engine, ids: np.ndarray, embeddings: np.ndarray | None = None, **options: Any) -> Answer:
    """Generate and read; 12 tokens unless told."""
    return read(of, of.submit(ids, embeddings, **{"max_new_tokens": 12, **options}))


def embeds_of(ids: np.ndarray, embeddings: np.ndarray | None = None) -> torch.Tensor:
    """What the reference is fed: f32 [1, T, C]."""
    rows = backbone().embed(torch.from_numpy(np.maximum(ids, 0).astype(np.int64)))
    if embeddings is not None:
        rows[torch.from_numpy(ids == -1)] = torch.from_numpy(embeddings)
    return rows[None]


def nothing_left(of: _native.Engine) -> None:
    """No page is held or promised any more, and the cache keeps its rules."""
    of.check()
    counts = of.counts()
    assert (counts["referenced"], counts["promised"], counts["sequences"]) == (0, 0, 0)
    assert counts["free"] + counts["kept"] == counts["pages"]
