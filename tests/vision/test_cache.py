"""The image cache: what a key covers, the bound, one encoding for many callers, and what happens when it fails."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from tinygptv_fast.errors import InvalidArgumentError
from tinygptv_fast.vision import Claim, ImageCache, Wait, image_key


def rgb(width: int, height: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_a_key_covers_all_that_an_embedding_depends_on() -> None:
    base = image_key(rgb(6, 4), "model", "int8")
    assert base == image_key(rgb(6, 4).copy(), "model", "int8") and len(base) == 64
    changed = rgb(6, 4)
    changed.putpixel((5, 3), tuple(255 - v for v in changed.getpixel((5, 3))))  # type: ignore[union-attr]
    reshaped = Image.frombytes("RGB", (4, 6), rgb(6, 4).tobytes())
    others = {
        image_key(changed, "model", "int8"),
        image_key(reshaped, "model", "int8"),
        image_key(rgb(6, 4), "model2", "int8"),
        image_key(rgb(6, 4), "model", "float32"),
    }
    assert len(others) == 4 and base not in others
    with pytest.raises(InvalidArgumentError, match="mode 'L', expected 'RGB'"):
        image_key(rgb(6, 4).convert("L"), "model", "int8")


@pytest.mark.parametrize("value", [-1, 1.5, True, "1"])
def test_bad_bounds(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match="max_bytes is"):
        ImageCache(value)  # type: ignore[arg-type]


def of(key: int, count: int = 4) -> Tensor:
    return torch.full((count, 2), float(key))


@settings(max_examples=60, deadline=None)
@given(
    capacity=st.integers(0, 200),
    calls=st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["get", "get", "get", "clear"])), max_size=40),
)
def test_against_a_plain_model(capacity: int, calls: list[tuple[int, str]]) -> None:
    """Key k is k+1 rows of 8 bytes; the model is an ordered dict trimmed from its old end."""
    cache, kept, encoded = ImageCache(capacity), OrderedDict[str, int](), 0
    hits = misses = evictions = 0
    for number, what in calls:
        if what == "clear":
            cache.clear()
            kept.clear()
            continue
        key, size = str(number), 8 * (number + 1)

        def encode(number: int = number) -> Tensor:
            nonlocal encoded
            encoded += 1
            return of(number, number + 1)

        assert torch.equal(cache.get_or_encode(key, encode), of(number, number + 1))
        if key in kept:
            kept.move_to_end(key)
            hits += 1
        else:
            misses += 1
            if size <= capacity:
                kept[key] = size
            while sum(kept.values()) > capacity:
                kept.popitem(last=False)
                evictions += 1
        stats = cache.stats
        assert (stats.hits, stats.misses, stats.evictions) == (hits, misses, evictions)
        assert (stats.entries, stats.bytes) == (len(kept), sum(kept.values()))
        assert encoded == misses and stats.bytes <= stats.max_bytes == capacity


def test_tensors_are_copied_in_and_out() -> None:
    cache, mine = ImageCache(1 << 20), of(1)
    cache.get_or_encode("a", lambda: mine).zero_()
    cache.get_or_encode("a", lambda: of(9)).zero_()
    assert torch.equal(cache.get_or_encode("a", lambda: of(9)), of(1))


@pytest.mark.parametrize("capacity", [0, 1 << 20])
def test_the_same_picture_at_once_is_encoded_once(capacity: int) -> None:
    """Also when nothing is kept."""
    cache, started, release, calls, found = ImageCache(capacity), threading.Event(), threading.Event(), [], []

    def encode() -> Tensor:
        calls.append(1)
        started.set()
        assert release.wait(30)
        return of(7)

    def ask() -> None:
        found.append(cache.get_or_encode("a", encode))

    threads = [threading.Thread(target=ask)]
    threads[0].start()
    assert started.wait(30)
    waits = [cache.claim("a") for _ in range(3)]  # what three more callers of get_or_encode hold while they wait
    assert all(isinstance(w, Wait) and not w.done and w.wait(0) is None for w in waits)
    threads += [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads[1:]:
        thread.start()
    deadline = time.monotonic() + 30
    while sum(t.is_alive() for t in threads) < 6 and time.monotonic() < deadline:
        time.sleep(0.001)
    if capacity == 0:
        time.sleep(0.2)  # let the five reach their wait: later ones would rightly encode again
    release.set()
    for thread in threads:
        thread.join(30)
    assert len(calls) == 1 and len(found) == 6 and all(torch.equal(f, of(7)) for f in found)
    assert all(torch.equal(w.wait(0), of(7)) for w in waits)  # type: ignore[union-attr,arg-type]
    assert cache.stats.misses == 1 and cache.stats.hits == 5 + 3


def test_a_failed_encoding_is_its_callers_alone() -> None:
    cache, started, release = ImageCache(1 << 20), threading.Event(), threading.Event()
    raised: list[BaseException] = []

    def fail() -> Tensor:
        started.set()
        assert release.wait(30)
        raise RuntimeError("no")

    def first() -> None:
        try:
            cache.get_or_encode("a", fail)
        except RuntimeError as error:
            raised.append(error)

    def second() -> None:
        found.append(cache.get_or_encode("a", lambda: of(2)))

    found: list[Tensor] = []
    threads = [threading.Thread(target=first)]
    threads[0].start()
    assert started.wait(30)
    threads.append(threading.Thread(target=second))
    threads[1].start()
    release.set()
    for thread in threads:
        thread.join(30)
    assert [str(error) for error in raised] == ["no"]
    assert len(found) == 1 and torch.equal(found[0], of(2)) and cache.stats.entries == 1


def test_claims_settle_once() -> None:
    cache = ImageCache(1 << 20)
    first = cache.claim("a")
    assert isinstance(first, Claim)
    waiting = cache.claim("a")
    assert isinstance(waiting, Wait)
    first.abandon()
    assert waiting.done and waiting.wait(0) is None
    second = cache.claim("a")
    assert isinstance(second, Claim)
    first.fulfil(of(1))  # too late: not its claim any more
    assert isinstance(cache.claim("a"), Wait)
    second.fulfil(of(2))
    second.abandon()
    kept = cache.claim("a")
    assert isinstance(kept, Tensor) and torch.equal(kept, of(2))
    assert cache.stats.misses == 2 and cache.stats.hits == 1
