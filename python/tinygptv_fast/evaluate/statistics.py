"""Bootstrap intervals and the area under the ROC curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import InvalidArgumentError

RESAMPLES = 1000
LEVEL = 0.95


def bootstrap(
    count: int,
    measure: Callable[[np.ndarray], float | None],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> tuple[float, float] | None:
    """The percentile interval (low, high) of a measure over ``count`` questions (Efron and Tibshirani 1993, ch. 13).

    measure: from indices, int64 [count], drawn with replacement; None where it is not defined for them (one class
    only), and such draws are left out. None if it is defined for fewer than half. The same for the same seed.
    """
    if count < 1:
        raise InvalidArgumentError(f"count is {count}, expected at least one question")
    rng = np.random.default_rng(seed)
    found = [value for _ in range(resamples) if (value := measure(rng.integers(count, size=count))) is not None]
    if 2 * len(found) < resamples:
        return None
    tail = (1 - level) / 2
    low, high = np.quantile(np.asarray(found), [tail, 1 - tail])
    return float(low), float(high)


def mean_interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """The bootstrap interval of the mean."""
    array = np.asarray(values, dtype=np.float64)
    found = bootstrap(len(array), lambda chosen: float(array[chosen].mean()), seed=seed)
    if found is None:  # a mean is defined for every draw
        raise InvalidArgumentError("values have no mean, expected numbers")
    return found


def auroc(scores: Sequence[float] | np.ndarray, labels: Sequence[int] | np.ndarray) -> float | None:
    """The area under the ROC curve: how often a positive scores above a negative, ties counting half; None with one
    class only. By ranks (Mann and Whitney 1947)."""
    score, label = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    positives = int((label == 1).sum())
    negatives = len(label) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[inverse]  # the mean rank of equal scores
    above = ranks[label == 1].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))
