"""Examples, and the order they come in: the batch of a step is a pure function of (seed, step), so a run that stops
needs to remember its step and nothing else of the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from ...errors import InvalidArgumentError

BLOCK = 1000  # slots over which the ratios of a mixture hold exactly


@dataclass(frozen=True)
class Turn:
    """One question and its answer. question None: one of the config's prompts is put. accepted: every answer that
    counts as right, where the data name several; training takes ``answer``."""

    question: str | None
    answer: str
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Example:
    """One row of training.

    images: each a path, a PIL picture, or the Q-Former's rows for it, f32 [NQ, Q]; they stand before the first
    question. task: a tag's name, put before each question, or None. where: file and record, for errors. choices: what
    the last question may be answered with, () where anything; training does not look at them.
    """

    turns: tuple[Turn, ...]
    images: tuple[Any, ...] = ()
    task: str | None = None
    where: str = ""
    choices: tuple[str, ...] = ()


class Batches(Protocol):
    """Where a run's data come from. ``digest`` names the data: a run is not continued on others."""

    @property
    def digest(self) -> str: ...

    def batch(self, step: int) -> Sequence[Example]:
        """The examples of 0-based ``step``: always the same for the same step."""


@dataclass(frozen=True)
class Mixture:
    """Data sets in fixed ratios, each shuffled anew every time it has been gone through.

    sets: name → examples; weights: name → share (normalised; a missing name weighs 1). In every block of 1000 examples
    the shares hold to the example, in shuffled order.
    """

    sets: Mapping[str, Sequence[Example]]
    batch_size: int
    seed: int
    digest: str
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        empty = [name for name, examples in self.sets.items() if not len(examples)]
        if not self.sets or empty:
            raise InvalidArgumentError(f"data sets {empty} have no examples, expected at least one in each")
        unknown = sorted(set(self.weights) - set(self.sets))
        if unknown:
            raise InvalidArgumentError(f"weights name {unknown}, expected names among {sorted(self.sets)}")

    def batch(self, step: int) -> list[Example]:
        """``batch_size`` examples."""
        return [self._at(position) for position in range(step * self.batch_size, (step + 1) * self.batch_size)]

    def _at(self, position: int) -> Example:
        names = list(self.sets)
        shares = tuple(float(self.weights.get(name, 1.0)) for name in names)
        block, slot = divmod(position, BLOCK)
        order, before = _block(shares, self.seed, block)
        which = order[slot]
        examples = self.sets[names[which]]
        # How many of this set came before: whole blocks hold a fixed number each, plus those earlier in this one.
        drawn = block * order.count(which) + before[slot]
        epoch, index = divmod(drawn, len(examples))
        return examples[_permutation(self.seed, which, epoch, len(examples))[index]]


@lru_cache(maxsize=4)
def _block(shares: tuple[float, ...], seed: int, block: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(set of each slot, how many slots of that set stand before it in the block)."""
    exact = np.array(shares) / sum(shares) * BLOCK
    counts = np.floor(exact).astype(int)
    for index in np.argsort(counts - exact, kind="stable")[: BLOCK - counts.sum()]:
        counts[index] += 1
    order = np.repeat(np.arange(len(shares)), counts)
    np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 1, block]))).shuffle(order)
    before, seen = [], [0] * len(shares)
    for which in order.tolist():
        before.append(seen[which])
        seen[which] += 1
    return tuple(order.tolist()), tuple(before)


@lru_cache(maxsize=64)
def _permutation(seed: int, which: int, epoch: int, count: int) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 2, which, epoch])))
    return rng.permutation(count)
