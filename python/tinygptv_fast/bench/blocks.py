"""Blocks of work between two probes of the read bandwidth. A block whose two probes disagree is dropped and counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .instruments import Instruments
from .noise import between

STEADY = 1.05
"""A block counts only if the larger of its two probes is at most this times the smaller."""


@dataclass(frozen=True)
class Cost:
    """What one block must do at the least: bytes read from memory (or written), operations (a multiply-add is two)."""

    bytes: int
    ops: int


@dataclass(frozen=True)
class Block:
    """One block: seconds of work, mean of the two probes (bytes/s), shares of foreign and stolen CPU time."""

    seconds: float
    bandwidth: float
    foreign: float
    stolen: float


@dataclass
class Blocks:
    """The blocks that count, and those that do not."""

    kept: list[Block] = field(default_factory=list)
    dropped: list[Block] = field(default_factory=list)


def measure(
    instruments: Instruments,
    work: Callable[[], object],
    keep: int,
    *,
    prepare: Callable[[], object] | None = None,
    attempts: int | None = None,
    note: Callable[[str], None] | None = None,
) -> Blocks:
    """Run ``work`` until ``keep`` blocks count, at most ``attempts`` times (default twice ``keep``, plus two).

    ``prepare`` runs before each block, outside of what is timed. One block first warms up and is thrown away. Work that
    returns a float says its own seconds, of a part of it; otherwise all of it is timed.
    """
    most = 2 * keep + 2 if attempts is None else attempts
    out = Blocks()
    if prepare is not None:
        prepare()
    work()
    for attempt in range(most):
        if len(out.kept) == keep:
            break
        if note is not None:
            note(f"block {attempt + 1}")
        if prepare is not None:
            prepare()
        block, steady = _one(instruments, work)
        (out.kept if steady else out.dropped).append(block)
    return out


def _one(instruments: Instruments, work: Callable[[], object]) -> tuple[Block, bool]:
    """The block, and whether its probes agree."""
    before = instruments.bandwidth()
    quiet, start = instruments.noise(), instruments.now()
    told = work()
    seconds = told if isinstance(told, float) else instruments.now() - start
    noise = between(quiet, instruments.noise())
    after = instruments.bandwidth()
    block = Block(seconds, (before + after) / 2, noise.foreign, noise.stolen)
    return block, max(before, after) <= STEADY * min(before, after)
