"""The figures of a run: each scorer's measure with its interval, and what answering cost."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .benchmark import Benchmark
from .question import Given, Question
from .run import Run
from .statistics import bootstrap, mean_interval

SEED = 0


@dataclass(frozen=True)
class Scored:
    """One answer with its scores, 0..1; paper is None where the original has no scorer."""

    question: Question
    given: Given
    strict: float
    paper: float | None


@dataclass(frozen=True)
class Figure:
    """One measure. value: in percent for means, as it is for the others. low, high: the 95 % bootstrap interval, None
    where a resample has none."""

    scorer: str
    measure: str
    value: float | None
    low: float | None
    high: float | None
    unit: str

    def __str__(self) -> str:
        if self.value is None:
            return "not defined"
        digits = 2 if self.unit == "%" else 4
        interval = "" if self.low is None or self.high is None else f" [{self.low:.{digits}f}, {self.high:.{digits}f}]"
        return f"{self.value:.{digits}f}{interval}"


def score(run: Run) -> list[Scored]:
    """Both scores of every answer."""
    chosen = run.benchmark
    return [
        Scored(q, g, chosen.strict(q, g), None if chosen.paper is None else chosen.paper(q, g)) for q, g in run.answers
    ]


def figures(benchmark: Benchmark, scored: Sequence[Scored], seed: int = SEED) -> list[Figure]:
    """Strict measures first; the first of all is the set's main one."""
    pairs = [(one.question, one.given) for one in scored]
    out = []
    for whole in benchmark.whole:
        measure = whole.prepare(pairs)
        interval = bootstrap(len(pairs), measure, seed=seed)
        low, high = interval or (None, None)
        out.append(Figure("strict", whole.name, measure(_all(len(pairs))), low, high, ""))
    means = [_mean("strict", benchmark.measure, [one.strict for one in scored], seed)]
    papers = [one.paper for one in scored if one.paper is not None]
    if papers:
        means.append(_mean("paper-compatible", "accuracy", papers, seed))
    return [*out, *means] if benchmark.name == "captions" else [means[0], *out, *means[1:]]


def cost(run: Run) -> dict[str, Any]:
    """What the answers took: wall time by batches over all runs that made them, words, and the most memory that this
    process has held (on Linux in steps of 1 KiB)."""
    seconds = sum(given.seconds for _, given in run.answers)
    words = sum(given.words for _, given in run.answers)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "seconds": round(seconds, 3),
        "words": words,
        "seconds_per_word": round(seconds / words, 5) if words else None,
        "peak_memory_bytes": peak,
    }


def _mean(scorer: str, measure: str, values: Sequence[float], seed: int) -> Figure:
    low, high = mean_interval(values, seed=seed)
    return Figure(scorer, measure, 100 * sum(values) / len(values), 100 * low, 100 * high, "%")


def _all(count: int) -> Any:
    import numpy as np

    return np.arange(count)
