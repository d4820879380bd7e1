"""Fits the map from an answer's evidence to the probability that it is right. numpy only.

The forms, simplest first: the logistic of the sum of log-probabilities (Platt 1999); the logistic of what the tokens
outside boxes and those inside say apart, because a box is right at an overlap of one half, long before its digits are
certain; the same score through isotonic regression (Zadrozny and Elkan 2002). Each is judged by the negative
log-likelihood of answers it was not fitted on, a proper score: lowest for the true probabilities and nothing else.
A form is taken over a simpler one only if it is better by more than one standard error of the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InvalidArgumentError
from ..generate.confidence import AnswerMap, Evidence, softmax
from .reliability import losses

LEAST_OF_EACH, LEAST_CHOICES = 10, 20
FOLDS, GROUPS = 5, 32
_RIDGE = 0.1  # weight of |slope · spread|² / 2 in nats: keeps slopes finite where answers are separable
_STEPS, _ENOUGH = 100, 1e-9
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Form:
    """A form of the map: which terms of the evidence it sees, and whether isotonic regression follows."""

    name: str
    terms: tuple[str, ...]
    boxed: bool = False
    isotonic: bool = False


FORMS = (
    Form("sum", ("total",)),
    Form("parts", ("words", "weakest", "places"), boxed=True),
    Form("parts, isotonic", ("words", "weakest", "places"), boxed=True, isotonic=True),
)


@dataclass(frozen=True)
class Fit:
    """The chosen map, fitted on all answers. nll: of each form, nats an answer, held out. stated: what maps of the
    chosen form, fitted on the other folds, say of each answer."""

    form: str
    answers: AnswerMap
    nll: dict[str, float]
    stated: list[float]


def fit_answers(found: Sequence[Evidence], right: Sequence[bool], groups: Sequence[str]) -> Fit:
    """Choose and fit a map. ``groups``: answers of one group (one picture) are held out together.

    Raises InvalidArgumentError unless at least ``LEAST_OF_EACH`` answers are right and as many wrong.
    """
    y = np.asarray(right, np.float64)
    good, bad = int(y.sum()), int(y.size - y.sum())
    if min(good, bad) < LEAST_OF_EACH:
        raise InvalidArgumentError(
            f"data has {good} answers that came out right and {bad} wrong, expected at least {LEAST_OF_EACH} of each"
        )
    fold = _folds(groups)
    held = {form.name: _held_out(form, found, y, fold) for form in FORMS}
    each = {name: losses(stated, y) for name, stated in held.items()}
    chosen = FORMS[0]
    for form in FORMS[1:]:
        gain = each[chosen.name] - each[form.name]
        if gain.mean() > gain.std() / np.sqrt(y.size):
            chosen = form
    nll = {name: float(values.mean()) for name, values in each.items()}
    return Fit(chosen.name, fit_form(chosen, found, y), nll, held[chosen.name].tolist())


def fit_form(form: Form, found: Sequence[Evidence], y: np.ndarray) -> AnswerMap:
    """The map of ``form`` that makes outcomes ``y`` f64 [N] (1 right, 0 wrong) most likely."""
    x = np.array([[getattr(one, term) for term in form.terms] + [one.boxed] * form.boxed for one in found], np.float64)
    weights = _logistic(x, y, free=form.boxed)
    slopes = dict(zip(form.terms, weights[: len(form.terms)].tolist(), strict=True))
    smooth = AnswerMap(slopes, float(weights[-1]), float(weights[-2]) if form.boxed else 0.0)
    if not form.isotonic:
        return smooth
    knots = _isotonic(np.array([smooth.score(one) for one in found]), y)
    return AnswerMap(smooth.slopes, smooth.bias, smooth.boxed, knots) if len(knots) > 1 else smooth


def fit_temperature(means: Sequence[Sequence[float]], right: Sequence[Sequence[bool]]) -> float:
    """The temperature of the softmax over choices that makes the right ones most likely: one number, found by golden
    section of its logarithm in 0.001..1000, where the likelihood has one peak.

    Raises InvalidArgumentError for fewer than ``LEAST_CHOICES`` questions with choices.
    """
    if len(means) < LEAST_CHOICES:
        raise InvalidArgumentError(f"data has {len(means)} questions with choices, expected none or {LEAST_CHOICES}")

    def loss(log_temperature: float) -> float:
        out = 0.0
        for each, good in zip(means, right, strict=True):
            sure = softmax(each, float(np.exp(log_temperature)))
            out -= np.log(max(sum(p for p, ok in zip(sure, good, strict=True) if ok), 1e-300))
        return out

    return float(np.exp(_lowest(loss, np.log(1e-3), np.log(1e3))))


def _folds(groups: Sequence[str]) -> np.ndarray:
    """i64 [N]: the fold of each; groups are dealt out in an order that does not depend on that of the data."""
    order = {name: at for at, name in enumerate(sorted(set(groups)))}
    dealt = np.random.Generator(np.random.PCG64(len(order))).permutation(len(order)) % FOLDS
    return dealt[[order[name] for name in groups]]


def _held_out(form: Form, found: Sequence[Evidence], y: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """f64 [N]: what a map fitted on the other folds says of each answer."""
    out = np.full(y.size, y.mean())
    for one in range(FOLDS):
        inside = fold == one
        if not inside.any() or len(set(y[~inside])) < 2:
            continue  # nothing to state, or nothing to learn from: the mean stands
        fitted = fit_form(form, [each for each, mine in zip(found, inside, strict=True) if not mine], y[~inside])
        out[inside] = [fitted(each) for each, mine in zip(found, inside, strict=True) if mine]
    return out


def _logistic(x: np.ndarray, y: np.ndarray, free: bool) -> np.ndarray:
    """f64 [K+1]: slopes of the columns of x f64 [N, K] and the bias. Slopes are >= 0 (the last one free, if ``free``):
    a column that would fall is left out and the others fitted again."""
    n, k = x.shape
    spread = x.std(axis=0)
    spread[spread == 0] = 1.0
    z = np.c_[x / spread, np.ones(n)]
    used = np.ones(k + 1, bool)
    while True:
        w = np.zeros(k + 1)
        w[used] = _newton(z[:, used], y)
        falling = np.flatnonzero(w[: k - free] < 0)
        if not falling.size:
            w[:k] /= spread
            return w
        used[falling[np.argmin(w[falling])]] = False


def _newton(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Ridge logistic regression, the last column's weight not drawn to 0."""
    w, ridge = np.zeros(z.shape[1]), np.full(z.shape[1], _RIDGE)
    ridge[-1] = 1e-9

    def loss(at: np.ndarray) -> float:
        s = z @ at
        return float(np.sum(np.logaddexp(0, s) - y * s) + ridge @ at**2 / 2)

    now = loss(w)
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(z @ w, -500, 500)))
        step = np.linalg.solve((z * (p * (1 - p))[:, None]).T @ z + np.diag(ridge), z.T @ (p - y) + ridge * w)
        size = 1.0
        while (then := loss(w - size * step)) > now and size > 1e-6:
            size /= 2
        if then >= now - _ENOUGH:
            break
        w, now = w - size * step, then
    return w


def _isotonic(score: np.ndarray, y: np.ndarray) -> tuple[tuple[float, float], ...]:
    """Knots of the rising map nearest to the outcomes: pool adjacent violators over at most ``GROUPS`` groups of equal
    size. Half a right and half a wrong answer are added to each pool, so that nothing is certain."""
    order = np.argsort(score, kind="stable")
    pools: list[list[float]] = []  # sum of scores, right, count
    for part in np.array_split(order, min(GROUPS, max(1, order.size // 8))):
        pools.append([float(score[part].sum()), float(y[part].sum()), float(part.size)])
        while len(pools) > 1 and pools[-2][1] / pools[-2][2] >= pools[-1][1] / pools[-1][2]:
            last = pools.pop()
            pools[-1] = [a + b for a, b in zip(pools[-1], last, strict=True)]
    rising = np.maximum.accumulate([(good + 0.5) / (count + 1) for _, good, count in pools]).tolist()
    knots = [(total / count, p) for (total, _, count), p in zip(pools, rising, strict=True)]
    return tuple(knot for at, knot in enumerate(knots) if at == 0 or knot[0] > knots[at - 1][0])


def _lowest(loss: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley has it, to 1e-4."""
    a, b = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    fa, fb = loss(a), loss(b)
    while high - low > 1e-4:
        if fa < fb:
            high, b, fb = b, a, fa
            a = high - _GOLDEN * (high - low)
            fa = loss(a)
        else:
            low, a, fa = a, b, fb
            b = low + _GOLDEN * (high - low)
            fb = loss(b)
    return (low + high) / 2
