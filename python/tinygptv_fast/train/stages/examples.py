"""Examples, and the order they come in: the batch of a step is a pure function of (seed, step), so a run that stops
needs to remember its step and nothing else of the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np

from ...data.examples import Example, Turn
from ...data.readers.order import locate
from ...errors import InvalidArgumentError

__all__ = ["Batches", "Example", "Mixture", "Turn"]


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
        which, drawn = locate(shares, self.seed, position)
        examples = self.sets[names[which]]
        epoch, index = divmod(drawn, len(examples))
        return examples[_permutation(self.seed, which, epoch, len(examples))[index]]


@lru_cache(maxsize=64)
def _permutation(seed: int, which: int, epoch: int, count: int) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 2, which, epoch])))
    return rng.permutation(count)
