"""Sequences in a native cache that are fed and read by hand: what decides about tokens in Python stands on it.

Knows ids, rows of embeddings and logits; no transformers. Any thread may call it: one step runs at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..env import read_settings
from ..errors import CapacityError, ClosedError, TinyGPTVError

if TYPE_CHECKING:
    from .. import _native

STEPS = _STEP_TOKENS, _STEP_LOGITS = 256, 64
"""Tokens, and rows of logits, of a step at most."""

_GROWTH = 64  # room is taken by so many positions at a time


@dataclass
class Feed:
    """What one sequence is fed. ids: -1 takes the next row of ``embeddings`` f32 [n, C]. ``logits``: of so many of its
    last tokens; they end up in ``rows``, f32 [logits, V]."""

    sequence: int
    ids: list[int]
    embeddings: np.ndarray | None = None
    logits: int = 1
    rows: list[np.ndarray] = field(default_factory=list)
    fed: int = 0

    @property
    def left(self) -> int:
        """Tokens still to be fed."""
        return len(self.ids) - self.fed

    def next_tokens(self, tokens: int, logits: int) -> int:
        """How many tokens go into a step that has room for so many and for so many rows of logits."""
        count = min(self.left, tokens)
        first = max(self.fed, len(self.ids) - self.logits)
        return min(count, max(0, first - self.fed + logits))

    def logits_of(self, count: int) -> int:
        """Rows of logits of the next ``count`` tokens."""
        return max(0, self.fed + count - max(self.fed, len(self.ids) - self.logits))

    def take(self, count: int) -> tuple[list[int], np.ndarray | None]:
        """The next ``count`` ids and the embeddings that go with them."""
        ids = self.ids[self.fed : self.fed + count]
        vectors = ids.count(-1)
        if not vectors or self.embeddings is None:
            return ids, None
        first = self.ids[: self.fed].count(-1)
        return ids, self.embeddings[first : first + vectors]


class Sequences:
    """A pool of sequences. Every method raises ClosedError after ``close``."""

    def __init__(self, decoder: _native.Decoder, kv_tokens: int) -> None:
        self._decoder: _native.Decoder | None = decoder
        self._kv_tokens = kv_tokens
        self._lock = threading.RLock()

    def open(self) -> int:
        """A new, empty sequence."""
        with self._lock:
            return self._room(lambda: self._opened().start(1))

    def fork(self, sequence: int) -> int:
        """One with the same positions; they share memory until one of the two goes on."""
        with self._lock:
            return self._room(lambda: self._opened().fork(sequence))

    def truncate(self, sequence: int, length: int) -> None:
        """Forget positions from ``length`` on."""
        with self._lock:
            self._opened().truncate(sequence, length)

    def length(self, sequence: int) -> int:
        """Positions of the sequence."""
        with self._lock:
            return self._opened().length(sequence)

    def release(self, sequences: Iterable[int]) -> None:
        """Give them back. After ``close`` there is nothing left to give."""
        with self._lock:
            if self._decoder is not None:
                for sequence in sequences:
                    self._decoder.release(sequence)

    def feed(self, feeds: Sequence[Feed]) -> None:
        """Feed all of them, each a different sequence, in as few steps as there is room for. If it raises, every
        sequence is as long as before. Raises CapacityError if the cache has no room for them."""
        with self._lock:
            native = self._opened()
            before = [native.length(one.sequence) for one in feeds]
            try:
                for one, length in zip(feeds, before, strict=True):
                    room = -(-(length + one.left) // _GROWTH) * _GROWTH
                    self._room(lambda one=one, room=room: native.extend(one.sequence, room))
                while any(one.left for one in feeds):
                    self._step(native, feeds)
            except BaseException:
                for one, length in zip(feeds, before, strict=True):
                    native.truncate(one.sequence, length)
                raise

    def counts(self) -> dict[str, int]:
        """Pages and sequences of the cache, for tests."""
        with self._lock:
            return self._opened().counts()

    def close(self) -> None:
        """Free the memory of all sequences."""
        with self._lock:
            self._decoder = None

    def _opened(self) -> _native.Decoder:
        if self._decoder is None:
            raise ClosedError("the accelerated model is closed")
        return self._decoder

    def _room(self, take: Any) -> Any:
        try:
            return take()
        except CapacityError as error:
            raise CapacityError(
                f"no room for more positions: {error}. Fewer rows or beams at a time, or a larger kv_tokens than "
                f"{self._kv_tokens} in accelerate(), would fit"
            ) from error

    @staticmethod
    def _step(native: _native.Decoder, feeds: Sequence[Feed]) -> None:
        tokens, logits = _STEP_TOKENS, _STEP_LOGITS
        chosen: list[tuple[Feed, int]] = []
        for one in feeds:
            count = one.next_tokens(tokens, logits)
            if count:
                chosen.append((one, count))
                tokens, logits = tokens - count, logits - one.logits_of(count)
        if not chosen:
            raise TinyGPTVError("a step without tokens")  # of what is left one token always fits
        parts, vectors = [], []
        for one, count in chosen:
            ids, rows = one.take(count)
            parts.append((one.sequence, ids, one.logits_of(count)))
            if rows is not None:
                vectors.append(rows)
        given: Any = np.ascontiguousarray(np.concatenate(vectors)) if vectors else None  # a buffer
        out = native.step(parts, given)
        at = 0
        for one, count in chosen:
            rows_of = one.logits_of(count)
            if rows_of:
                one.rows.append(out[at : at + rows_of])
            at += rows_of
            one.fed += count


def open_sequences(weights: Any, *, kv_kind: str, kv_tokens: int, threads: int, isa: str) -> Sequences:
    """Over packed weights; memory is reserved now and touched when it is used."""
    from .. import _native

    decoder = _native.Decoder(
        weights,
        kv_kind=kv_kind,
        kv_tokens=kv_tokens,
        max_tokens=_STEP_TOKENS,
        max_logit_rows=_STEP_LOGITS,
        threads=threads,
        isa=isa,
        graphs=read_settings().cuda_graphs,
        early_starts=read_settings().cuda_early_starts,
    )
    return Sequences(decoder, kv_tokens)
