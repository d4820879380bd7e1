"""Random sequences of operations on the KV cache, against the plain model: no leaked, lost or aliased page, contents
right after copy-on-write, prefixes that find exactly the right pages, and totals that add up.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tinygptv_fast import _native
from tinygptv_fast.errors import CapacityError

from .plain_model import PS, Model, Sequence
from .rows_twin import KINDS, stored

LAYERS, HEADS, DIM = 2, 2, 4


def rows(keys: list[int], layer: int, sign: int) -> np.ndarray:
    """[T, H, D]: numbers that follow from key, layer and place, so that every position's K and V are its own."""
    place = np.arange(HEADS * DIM).reshape(HEADS, DIM)
    base = np.asarray(keys, dtype=np.float64).reshape(-1, 1, 1)
    return (sign * np.sin(base * 1.7 + layer * 0.9 + place * 0.31) * 3).astype(np.float32)


# Few different texts, so that prompts meet: text 0 and 1 begin alike and part at position 24.
def text(which: int, start: int, count: int) -> list[int]:
    return [i if i < 24 and which < 2 else 1000 * (which + 1) + i for i in range(start, start + count)]


class CacheMachine(RuleBasedStateMachine):
    @initialize(pages=st.integers(4, 14), kind=st.sampled_from(KINDS), bits=st.sampled_from([64, 64, 64, 1]))
    def make(self, pages: int, kind: str, bits: int) -> None:
        self.cache = _native.KVCache(
            pages=pages, layers=LAYERS, heads=HEADS, head_dim=DIM, kind=kind, model_id="m", hash_bits=bits
        )
        self.kind, self.exact_index = kind, bits == 64
        self.model = Model(pages)
        self.evicted = 0

    def pick(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.model.sequences)), label="sequence")

    def observe(self, key: int) -> Sequence:
        """Takes over the block table as the cache reports it."""
        sequence = self.model.sequences[key]
        sequence.table = self.cache.block_table(key)
        return sequence

    def indexed(self) -> list[int]:
        return [page for page in range(self.model.pages) if self.cache.is_indexed(page)]

    def check_contents(self, key: int) -> None:
        keys = self.model.sequences[key].keys
        assert self.cache.length(key) == len(keys)
        k, v = (np.empty((len(keys), HEADS, DIM), np.float32) for _ in range(2))
        for layer in range(LAYERS):
            self.cache.read(k, v, key, layer, 0)
            np.testing.assert_array_equal(k, stored(rows(keys, layer, 1), self.kind))
            np.testing.assert_array_equal(v, stored(rows(keys, layer, -1), self.kind))

    # --- operations ---------------------------------------------------------------------------------------------------
    @rule(which=st.integers(0, 2), prompt=st.integers(1, 70), new=st.integers(0, 40), forks=st.integers(1, 3))
    def reserve(self, which: int, prompt: int, new: int, forks: int) -> None:
        keys = text(which, 0, prompt)
        hits = self.cache.find_prefix(keys)
        expected = self.model.expected_prefix(keys, self.indexed())
        # With two bits of hash a page may fail to be found, but never the wrong one.
        assert hits == expected if self.exact_index else hits == expected[: len(hits)]
        admission = self.model.admission(prompt, new, forks, hits)
        assert self.cache.admission(keys, new, forks) == admission
        if admission != "now":
            with pytest.raises(CapacityError, match="never fit" if admission == "never" else "has to wait"):
                self.cache.reserve(keys, new, forks)
            return
        key = self.cache.reserve(keys, new, forks)
        assert self.cache.block_table(key) == hits
        assert self.cache.length(key) == self.cache.committed(key) == len(hits) * PS
        self.model.sequences[key] = Sequence(keys[: len(hits) * PS], hits, prompt + new, prompt, forks - 1)
        self.check_contents(key)

    @precondition(lambda self: self.model.sequences)
    @rule(data=st.data(), which=st.integers(0, 2), count=st.integers(1, 40))
    def append(self, data: st.DataObject, which: int, count: int) -> None:
        key = self.pick(data)
        sequence = self.model.sequences[key]
        first, before = len(sequence.keys), list(sequence.table)
        more = text(which, first, min(count, sequence.limit - first))
        shared = {page for page, n in self.model.holders().items() if n > 1}
        self.cache.append(key, more)
        sequence.keys += more
        self.observe(key)
        # Pages before the first new position stay; the one it falls in is another if it was shared.
        assert sequence.table[: first // PS] == before[: first // PS]
        if more and first % PS:
            assert (sequence.table[first // PS] != before[-1]) == (before[-1] in shared)
        holders = self.model.holders()
        for page in sequence.table[first // PS :] if more else []:
            assert holders[page] == 1, "a page about to be written is shared"
            assert not self.cache.is_indexed(page), "a page about to be written can be found"
        for layer in range(LAYERS):
            self.cache.write(key, layer, first, rows(more, layer, 1), rows(more, layer, -1))
        self.cache.commit(key)
        self.model.committed(key)

    @precondition(lambda self: self.model.sequences)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        key = self.pick(data)
        sequence = self.model.sequences[key]
        if not self.model.can_fork(key):
            with pytest.raises(CapacityError, match="fork"):
                self.cache.fork(key)
            return
        made = self.cache.fork(key)
        if sequence.forks_left and len(sequence.keys) >= sequence.prompt:
            sequence.forks_left -= 1
        self.model.sequences[made] = Sequence(list(sequence.keys), [], sequence.limit, sequence.prompt)
        assert self.observe(made).table == sequence.table

    @precondition(lambda self: self.model.sequences)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        key = self.pick(data)
        sequence = self.model.sequences[key]
        length = data.draw(st.integers(0, len(sequence.keys)), label="length")
        if not self.model.can_truncate(key, length):
            with pytest.raises(CapacityError, match="truncating"):
                self.cache.truncate(key, length)
            return
        self.cache.truncate(key, length)
        del sequence.keys[length:]
        kept = sequence.table[: -(-length // PS)]
        assert self.observe(key).table == kept

    @precondition(lambda self: self.model.sequences)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        key = self.pick(data)
        self.cache.release(key)
        del self.model.sequences[key]

    # --- what must always be true -------------------------------------------------------------------------------------
    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "cache"):
            return
        self.cache.check()
        counts, holders = self.cache.counts(), self.model.holders()
        assert [self.cache.references(page) for page in range(self.model.pages)] == [
            holders[page] for page in range(self.model.pages)
        ]
        indexed = self.indexed()
        assert counts["indexed"] == len(indexed)
        assert counts["referenced"] == len(holders)
        assert counts["kept"] == len(set(indexed) - set(holders))
        assert counts["free"] == self.model.pages - len(set(indexed) | set(holders))
        assert counts["promised"] == self.model.promised()
        assert self.model.room() >= 0
        assert counts["sequences"] == len(self.model.sequences)
        assert counts["evicted"] >= self.evicted
        self.evicted = counts["evicted"]
        # What can be found holds what it is found for, and its ancestors can be found too.
        prefixes = {self.model.prefixes[page] for page in indexed}
        assert len(prefixes) == len(indexed)
        assert all(len(prefix) == PS or prefix[:-PS] in prefixes for prefix in prefixes)
        for key in self.model.sequences:
            self.check_contents(key)

    def teardown(self) -> None:
        if not hasattr(self, "cache"):
            return
        for key in list(self.model.sequences):
            self.cache.release(key)
        self.model.sequences.clear()
        self.holds()
        counts = self.cache.counts()
        assert counts["free"] + counts["kept"] == self.model.pages
        # Every page can still be had: nothing is lost.
        whole = self.cache.reserve(text(7, 0, self.model.pages * PS), 0)
        self.cache.append(whole, text(7, 0, self.model.pages * PS))
        assert sorted(self.cache.block_table(whole)) == list(range(self.model.pages))


def test_random_operations_agree_with_the_plain_model() -> None:
    run_state_machine_as_test(
        CacheMachine, settings=settings(max_examples=200, stateful_step_count=40, deadline=None, print_blob=True)
    )


def test_the_texts_of_this_test_meet_and_part() -> None:
    a, b = text(0, 0, 40), text(1, 0, 40)
    assert a[:24] == b[:24]
    assert all(x != y for x, y in zip(a[24:], b[24:], strict=True))
    assert all(y == x + 1 for x, y in pairwise(text(2, 0, 40)))
