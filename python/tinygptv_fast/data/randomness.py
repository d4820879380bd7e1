"""Streams of random numbers that depend on their seeds alone: a run can stop and continue anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def generator(seed: int, *path: int) -> np.random.Generator:
    """An independent stream for every (seed, path), all >= 0."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *path])))


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of ``options``, each equally likely. One draw of ``rng.random``, the cheapest call it has."""
    return options[int(rng.random() * len(options))]


def weighted(rng: np.random.Generator, weights: Sequence[float]) -> int:
    """An index, each as likely as its weight says; the weights need not add up to one."""
    left = rng.random() * sum(weights)
    for index, weight in enumerate(weights):
        left -= weight
        if left < 0:
            return index
    return len(weights) - 1
