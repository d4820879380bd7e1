"""The KV cache through its bindings: rounding of every kind against the twin, errors, eviction under pressure."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

from tinygptv_fast import _native
from tinygptv_fast.errors import CapacityError, InvalidArgumentError

from .rows_twin import KINDS, stored


def cache(pages: int = 8, kind: str = "int8", heads: int = 3, dim: int = 80, **options: object) -> _native.KVCache:
    return _native.KVCache(pages=pages, layers=2, heads=heads, head_dim=dim, kind=kind, **options)


def filled(c: _native.KVCache, k: np.ndarray, v: np.ndarray, layer: int = 1) -> tuple[int, np.ndarray, np.ndarray]:
    """Writes k, v [T, H, D] as a new sequence; returns it and what comes back."""
    keys = list(range(len(k)))
    sequence = c.reserve(keys, 0)
    c.append(sequence, keys)
    c.write(sequence, layer, 0, k, v)
    c.commit(sequence)
    k_back, v_back = np.empty_like(k), np.empty_like(v)
    c.read(k_back, v_back, sequence, layer, 0)
    return sequence, k_back, v_back


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [4, 20, 80, 256])
def test_rows_come_back_as_the_twin_says(kind: str, dim: int) -> None:
    random = np.random.default_rng(dim)
    # Sizes from deep in half's subnormals to near its end, a row of zeros, and exact ties.
    size = np.exp2(random.integers(-30, 14, (37, 3, 1))).astype(np.float32)
    k, v = ((random.standard_normal((37, 3, dim)) * size).astype(np.float32).clip(-65504, 65504) for _ in range(2))
    k[5] = 0
    v[6, 0, :4] = [127, 0.5, -1.5, 2.5]
    _, k_back, v_back = filled(cache(kind=kind, dim=dim), k, v)
    np.testing.assert_array_equal(k_back, stored(k, kind))
    np.testing.assert_array_equal(v_back, stored(v, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_the_twin_is_near_the_numbers(kind: str) -> None:
    """Bounds from the formats: half a unit in the last place, or half a step of int8 with its rounded scale."""
    rows = np.random.default_rng(1).standard_normal((50, 3, 80)).astype(np.float32)
    largest = np.abs(rows).max(axis=-1, keepdims=True)
    bound = {"f32": 0.0, "f16": 2.0**-11 * np.abs(rows) + 2.0**-25, "bf16": 2.0**-8 * np.abs(rows)}.get(
        kind, largest / 127 * (0.5 + 2.0**-10) + largest * 2.0**-11
    )
    assert (np.abs(stored(rows, kind) - rows) <= bound).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_numbers_that_do_not_fit_are_named(bad: float) -> None:
    c = cache(kind="f16", dim=8)
    k = np.zeros((1, 3, 8), np.float32)
    k[0, 2, 7] = bad
    sequence = c.reserve([1], 0)
    c.append(sequence, [1])
    with pytest.raises(InvalidArgumentError, match="kind f16 cannot hold"):
        c.write(sequence, 0, 0, k, k)
    c.release(sequence)
    assert c.counts()["free"] == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pages": 0}, "pages is 0"),
        ({"pages": 2**31}, "pages is 2147483648"),
        ({"heads": 0}, "heads is 0"),
        ({"dim": 82}, "head_dim is 82, expected a multiple of 4"),
        ({"dim": 260}, "head_dim is 260"),
        ({"hash_bits": 0}, "hash_bits is 0"),
        ({"kind": "fp8"}, "kind is 'fp8', expected f32, f16, bf16 or int8"),
        ({"pages": 2**31 - 1, "heads": 1024, "dim": 256}, "larger than any address space"),
    ],
)
def test_bad_geometry_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        cache(**options)


def test_memory_that_cannot_be_had_is_an_error() -> None:
    """In a process of its own, whose address space is limited to 4 GiB."""
    program = """
import resource
from tinygptv_fast import _native
from tinygptv_fast.errors import TinyGPTVError
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
try:
    _native.KVCache(pages=8000, layers=32, heads=32, head_dim=80, kind="f32")
except TinyGPTVError as error:
    print(error)
print(_native.KVCache(pages=8, layers=1, heads=1, head_dim=4).counts()["free"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"no memory for \d+ bytes: .+\n8\n", done.stdout)


def test_arrays_are_matched_against_the_cache() -> None:
    c = cache(dim=8)
    sequence = c.reserve([1, 2], 0)
    c.append(sequence, [1, 2])
    good = np.zeros((2, 3, 8), np.float32)
    with pytest.raises(InvalidArgumentError, match=r"k is \[2,3,4\] f32, expected \[T,H=3,D=8\]"):
        c.write(sequence, 0, 0, good[:, :, :4].copy(), good)
    with pytest.raises(InvalidArgumentError, match=r"v is \[1,3,8\]"):
        c.write(sequence, 0, 0, good, good[:1])
    with pytest.raises(InvalidArgumentError, match=r"v is .* f16"):
        c.write(sequence, 0, 0, good, good.astype(np.float16))
    with pytest.raises(InvalidArgumentError, match="strided"):
        c.write(sequence, 0, 0, good.transpose(0, 2, 1).copy().transpose(0, 2, 1), good)
    frozen = good.copy()
    frozen.flags.writeable = False
    with pytest.raises(InvalidArgumentError, match="read-only"):
        c.read(frozen, good, sequence, 0, 0)
    c.write(sequence, 0, 0, frozen, frozen)
    with pytest.raises(InvalidArgumentError, match="positions are 1 and 2"):
        c.write(sequence, 0, 1, good, good)


def test_an_unknown_sequence_is_named_by_every_function() -> None:
    c = cache()
    gone = c.reserve([1], 3)
    c.release(gone)
    rows = np.zeros((1, 3, 80), np.float32)
    for call in (
        lambda: c.append(gone, [1]),
        lambda: c.commit(gone),
        lambda: c.fork(gone),
        lambda: c.truncate(gone, 0),
        lambda: c.release(gone),
        lambda: c.length(gone),
        lambda: c.committed(gone),
        lambda: c.block_table(gone),
        lambda: c.write(gone, 0, 0, rows, rows),
        lambda: c.read(rows, rows, gone, 0, 0),
    ):
        with pytest.raises(InvalidArgumentError, match=f"sequence is {gone}"):
            call()
    assert c.reserve([1], 3) != gone


def test_a_request_waits_for_another_or_can_never_fit() -> None:
    c = cache(pages=4)
    first = c.reserve([1] * 20, 20)
    assert c.admission([2] * 20, 20) == "later"
    with pytest.raises(CapacityError, match="has to wait"):
        c.reserve([2] * 20, 20)
    with pytest.raises(RuntimeError, match="never fit"):
        c.reserve([2] * 20, 45)
    c.release(first)
    assert c.admission([2] * 20, 20) == "now"


def test_eviction_under_pressure_takes_the_oldest_prefix() -> None:
    """Prompts of two pages through a cache of eight: always the last three full ones can be found again."""
    c = cache(pages=8, dim=4)
    rows = np.zeros((33, 3, 4), np.float32)
    prompts = [[1000 * i + j for j in range(33)] for i in range(20)]
    for i, prompt in enumerate(prompts):
        sequence = c.reserve(prompt, 0)
        c.append(sequence, prompt)
        c.write(sequence, 0, 0, rows, rows)
        c.commit(sequence)
        c.release(sequence)
        found = [len(c.find_prefix(p)) for p in prompts[: i + 1]]
        assert found[-3:] == [2] * len(found[-3:])
        assert sum(found) == c.counts()["kept"] <= 8
    assert c.counts()["evicted"] == 2 * len(prompts) - c.counts()["kept"]
    c.check()


def test_memory_is_touched_on_first_use_only() -> None:
    """A reservation of 1 GiB costs (almost) no resident memory until it is written."""

    def resident() -> int:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * 4096

    before = resident()
    c = _native.KVCache(pages=800, layers=32, heads=32, head_dim=80, kind="int8")
    assert resident() - before < 64 << 20
    assert c.counts()["free"] == 800
