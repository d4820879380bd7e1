"""A plain model of the KV cache's bookkeeping, written from docs/kv_cache.md and not from the C++.

It follows block tables as the cache reports them and says what must be true of them: who holds which page, what is
promised, whether an operation must succeed, which pages a prompt must find. Everything is recomputed from scratch at
every question, so that no running total can hide a mistake. Knows nothing of memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

PS = 16


def pages_for(tokens: int) -> int:
    return -(-tokens // PS)


@dataclass
class Sequence:
    """``keys``: one per position; ``table``: its pages as reported."""

    keys: list[int]
    table: list[int]
    limit: int
    prompt: int
    forks_left: int = 0

    def tail(self) -> int | None:
        """The page in which the next position goes after positions that are there."""
        return self.table[len(self.keys) // PS] if len(self.keys) % PS else None

    def fork_pages(self) -> int:
        return pages_for(self.limit) - self.prompt // PS


@dataclass
class Model:
    pages: int
    sequences: dict[int, Sequence] = field(default_factory=dict)
    # page -> every key up to its end, of the pages that held full committed positions when last seen
    prefixes: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def holders(self) -> Counter[int]:
        return Counter(page for s in self.sequences.values() for page in s.table)

    def promised(self) -> int:
        """Pages that may still be asked for: to the limit, for forks, and for copies of shared pages."""
        own = sum(pages_for(s.limit) - len(s.table) for s in self.sequences.values())
        forks = sum(s.forks_left * s.fork_pages() for s in self.sequences.values())
        writers = Counter(s.tail() for s in self.sequences.values() if s.tail() is not None)
        holders = self.holders()
        # All who go on writing copy the page, except that the last holder of it need not.
        copies = sum(n - 1 if holders[page] == n else n for page, n in writers.items())
        return own + forks + copies

    def room(self) -> int:
        return self.pages - len(self.holders()) - self.promised()

    def admission(self, prompt: int, new: int, forks: int, hits: list[int]) -> str:
        each = pages_for(prompt + new)
        most = each + (forks - 1) * (each - prompt // PS)
        if most > self.pages:
            return "never"
        holders = self.holders()
        return "now" if most - sum(holders[page] > 0 for page in hits) <= self.room() else "later"

    def _with(self, key: int, sequence: Sequence) -> Model:
        return Model(self.pages, {**self.sequences, key: sequence})

    def can_fork(self, key: int) -> bool:
        s = self.sequences[key]
        after = self._with(-1, replace(s, forks_left=0))
        if s.forks_left and len(s.keys) >= s.prompt:
            after = after._with(key, replace(s, forks_left=s.forks_left - 1))
        return after.room() >= 0

    def can_truncate(self, key: int, length: int) -> bool:
        s = self.sequences[key]
        return self._with(key, replace(s, keys=s.keys[:length], table=s.table[: pages_for(length)])).room() >= 0

    def committed(self, key: int) -> None:
        """Notes what the full pages of a sequence hold."""
        s = self.sequences[key]
        for i in range(len(s.keys) // PS):
            self.prefixes[s.table[i]] = tuple(s.keys[: (i + 1) * PS])

    def expected_prefix(self, prompt: list[int], indexed: Iterable[int]) -> list[int]:
        """The pages, of those that the cache says can be found, with which a prompt must begin."""
        by_prefix = {self.prefixes[page]: page for page in indexed}
        found = []
        for end in range(PS, len(prompt), PS):
            page = by_prefix.get(tuple(prompt[:end]))
            if page is None:
                break
            found.append(page)
        return found
