"""How far stated probabilities are from what happened: calibration error, Brier score, the reliability curve.

Expected calibration error: Naeini, Cooper and Hauskrecht 2015 (equal-width bins). Brier 1950.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import InvalidArgumentError

BINS = 15
_LEAST = 1e-12


@dataclass(frozen=True)
class Bin:
    """Statements between ``low`` and ``high``: how many, their mean, and the share that was right."""

    low: float
    high: float
    count: int
    stated: float
    right: float


@dataclass(frozen=True)
class Reliability:
    """Figures of a set of statements. ece, most (the largest gap of a bin) and brier: 0..1, 0 is best. nll: nats an
    answer. auc: the chance that a right answer is stated above a wrong one; 0.5 where there is only one sort."""

    count: int
    right: float
    stated: float
    ece: float
    brier: float
    nll: float
    auc: float
    curve: tuple[Bin, ...]

    def to_dict(self) -> dict[str, Any]:
        """Json-ready; figures to five places."""
        out = asdict(self)
        out["curve"] = [{name: round(value, 5) for name, value in row.items()} for row in out["curve"]]
        return {name: round(value, 5) if isinstance(value, float) else value for name, value in out.items()}


def reliability(stated: Sequence[float], right: Sequence[bool], bins: int = BINS) -> Reliability:
    """Figures of probabilities ``stated`` for answers that were ``right`` or not. Empty bins are left out.

    Raises InvalidArgumentError for none, for lists of different lengths, and for numbers outside 0..1.
    """
    p, y = np.asarray(stated, np.float64), np.asarray(right, np.float64)
    if p.ndim != 1 or p.shape != y.shape or not p.size or not np.all((p >= 0) & (p <= 1)):
        raise InvalidArgumentError(f"stated is {p.shape}, right {y.shape}, expected as many, at least one, in 0..1")
    which = np.minimum((p * bins).astype(int), bins - 1)
    curve = tuple(
        Bin(at / bins, (at + 1) / bins, int(mine.sum()), float(p[mine].mean()), float(y[mine].mean()))
        for at in range(bins)
        if (mine := which == at).any()
    )
    ece = sum(one.count * abs(one.stated - one.right) for one in curve) / p.size
    return Reliability(
        count=p.size,
        right=float(y.mean()),
        stated=float(p.mean()),
        ece=float(ece),
        brier=float(np.mean((p - y) ** 2)),
        nll=float(np.mean(losses(p, y))),
        auc=_auc(p, y),
        curve=curve,
    )


def losses(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """f64 [N]: the negative log-likelihood of each outcome, in nats; bounded where p is 0 or 1 and wrong."""
    kept = np.clip(p, _LEAST, 1 - _LEAST)
    return -np.where(y > 0, np.log(kept), np.log1p(-kept))


def _auc(p: np.ndarray, y: np.ndarray) -> float:
    good, bad = np.sort(p[y > 0]), np.sort(p[y == 0])
    if not good.size or not bad.size:
        return 0.5
    below = np.searchsorted(bad, good, "left") + np.searchsorted(bad, good, "right")
    return float(below.sum() / (2 * good.size * bad.size))
