"""Encoded pictures by content, bounded in bytes. Knows hashes and tensors, not models.

A key covers everything an embedding depends on: the decoded pixels, their size, the model, the arithmetic. Two callers
that want the same picture at once encode it once: the first is told to, the others wait for it.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..errors import InvalidArgumentError

if TYPE_CHECKING:
    from torch import Tensor


def image_key(picture: Image.Image, model_id: str, arithmetic: object) -> str:
    """sha256 over an RGB ``picture`` (``ImageProcessor.load``) at its full size, the model's content id and the
    tower's arithmetic. Raises InvalidArgumentError for another mode."""
    if picture.mode != "RGB":
        raise InvalidArgumentError(f"picture is of mode {picture.mode!r}, expected 'RGB'")
    fields = f"tinygptv image 1|{picture.width}x{picture.height}|{arithmetic}|{model_id}"
    digest = hashlib.sha256(len(fields).to_bytes(8, "little") + fields.encode())
    digest.update(np.ascontiguousarray(np.asarray(picture)).data)
    return digest.hexdigest()


@dataclass(frozen=True)
class CacheStats:
    """Counts since construction. ``hits``: answered without encoding, those who waited for another caller included.
    ``misses``: claims that had to encode. ``bytes`` never exceeds ``max_bytes``."""

    hits: int
    misses: int
    evictions: int
    entries: int
    bytes: int
    max_bytes: int


class _Pending:
    """A picture somebody is encoding. ``value`` is None until then, and stays None if they gave up."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.value: Tensor | None = None


class Wait:
    """Somebody else is encoding the picture. ``wait`` for them, or look again later."""

    def __init__(self, cache: ImageCache, pending: _Pending) -> None:
        self._cache, self._pending = cache, pending

    @property
    def done(self) -> bool:
        """True once they have ended, one way or the other."""
        return self._pending.done.is_set()

    def wait(self, timeout: float | None = None) -> Tensor | None:
        """Their embeddings; None after ``timeout`` seconds, or if they gave up (then ``done``: claim again)."""
        self._pending.done.wait(timeout)
        return None if self._pending.value is None else self._cache._shared(self._pending.value)


class Claim:
    """The right, and the duty, to encode one picture: ``fulfil`` or ``abandon``. The first call counts."""

    def __init__(self, cache: ImageCache, key: str, pending: _Pending) -> None:
        self._cache, self._key, self._pending = cache, key, pending

    def fulfil(self, embeddings: Tensor) -> None:
        """Keep a copy of float32 [NQ, C], and hand it to those who wait."""
        self._cache._settle(self._key, self._pending, embeddings.detach().clone())

    def abandon(self) -> None:
        """Encoding failed or was cancelled: one of those who wait, or the next who asks, encodes instead."""
        self._cache._settle(self._key, self._pending, None)


class ImageCache:
    """Least recently used pictures go first. Any thread may call anything. Tensors are copied in and out.

    max_bytes: of embeddings (32 x 2560 float32 are 320 KiB a picture); 0 keeps nothing, but pictures asked for at the
    same time are still encoded once. A picture larger than max_bytes is not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        if not isinstance(max_bytes, int) or isinstance(max_bytes, bool) or max_bytes < 0:
            raise InvalidArgumentError(f"max_bytes is {max_bytes!r}, expected an integer >= 0")
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, Tensor] = OrderedDict()
        self._pending: dict[str, _Pending] = {}
        self._bytes = self._hits = self._misses = self._evictions = 0

    def get_or_encode(self, key: str, encode: Callable[[], Tensor]) -> Tensor:
        """The embeddings under ``key``, computed by ``encode`` if need be. Blocks while another caller encodes them.

        What ``encode`` raises goes to its own caller only; one of those who wait then encodes itself.
        """
        while True:
            found = self.claim(key)
            if isinstance(found, Claim):
                return _encode(found, encode)
            embeddings = found.wait() if isinstance(found, Wait) else found
            if embeddings is not None:
                return embeddings

    def claim(self, key: str) -> Tensor | Claim | Wait:
        """For a scheduler that must not block: the embeddings; or a Claim, if the caller is to encode them; or a Wait,
        if somebody else is encoding them now."""
        with self._lock:
            kept = self._entries.get(key)
            if kept is not None:
                self._entries.move_to_end(key)
                self._hits += 1
                return kept.clone()
            pending = self._pending.get(key)
            if pending is not None:
                return Wait(self, pending)
            self._misses += 1
            self._pending[key] = mine = _Pending()
            return Claim(self, key, mine)

    def clear(self) -> None:
        """Forget all pictures. Counts stay; encodings under way go on and are kept when they end."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    @property
    def stats(self) -> CacheStats:
        with self._lock:
            return CacheStats(
                self._hits, self._misses, self._evictions, len(self._entries), self._bytes, self._max_bytes
            )

    def _shared(self, value: Tensor) -> Tensor:
        with self._lock:
            self._hits += 1
        return value.clone()

    def _settle(self, key: str, pending: _Pending, value: Tensor | None) -> None:
        with self._lock:
            if self._pending.get(key) is not pending:
                return  # settled before
            del self._pending[key]
            if value is not None:
                self._keep(key, value)
            pending.value = value
        pending.done.set()

    def _keep(self, key: str, value: Tensor) -> None:
        if value.nbytes > self._max_bytes:
            return
        self._entries[key] = value
        self._bytes += value.nbytes
        while self._bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self._bytes -= oldest.nbytes
            self._evictions += 1


def _encode(claim: Claim, encode: Callable[[], Tensor]) -> Tensor:
    try:
        embeddings = encode()
    except BaseException:
        claim.abandon()
        raise
    claim.fulfil(embeddings)
    return embeddings
