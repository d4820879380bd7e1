"""From examples and what a model answered to a calibration of it, with the figures that say what it is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.judging import is_accepted, plain
from ..errors import InvalidArgumentError
from ..generate.confidence import Calibration, softmax
from ..train.stages.examples import Example
from .answering import Given, task_of
from .fitting import LEAST_CHOICES, fit_answers, fit_temperature
from .reliability import Reliability, reliability


@dataclass(frozen=True)
class Outcome:
    """A calibration and its figures. raw: ``Answer.probability`` as it is; stated: the form of map that was chosen,
    fitted on other pictures than those of the answer. cut_short: answers left out because they did not end.
    raw_choices, choices: the same of the choice put first, raw being temperature 1; both on the questions of the fit,
    which has one number only."""

    calibration: Calibration
    raw: Reliability
    stated: Reliability
    nll: dict[str, float]
    cut_short: int
    raw_choices: Reliability | None = None
    choices: Reliability | None = None

    def to_dict(self) -> dict[str, Any]:
        """Json-ready."""
        tables = {"raw": self.raw, "held_out": self.stated, "raw_choices": self.raw_choices, "choices": self.choices}
        return {
            "fitted": dict(self.calibration.fitted),
            "held_out_nll": {name: round(value, 5) for name, value in self.nll.items()},
            "cut_short": self.cut_short,
            **{name: None if one is None else one.to_dict() for name, one in tables.items()},
        }


def judged(examples: Sequence[Example], given: Sequence[Given]) -> list[bool]:
    """Whether each answer is accepted."""
    return [is_accepted(g.text, accepted(e), task_of(e)) for e, g in zip(examples, given, strict=True)]


def accepted(example: Example) -> tuple[str, ...]:
    """The answers that count as right for the example's last question."""
    last = example.turns[-1]
    return last.accepted or (last.answer,)


def calibrate(model_id: str, examples: Sequence[Example], given: Sequence[Given]) -> Outcome:
    """Fit a calibration of the model with content hash ``model_id``.

    Raises InvalidArgumentError where there is too little to learn from.
    """
    whole = [(e, g) for e, g in zip(examples, given, strict=True) if g.reason == "stop"]
    if not whole:
        raise InvalidArgumentError(f"data has {len(given)} answers, of which none ended by itself; expected some")
    used, said = [e for e, _ in whole], [g for _, g in whole]
    right = judged(used, said)
    fit = fit_answers([g.evidence for g in said], right, [_group(e) for e in used])
    stated = reliability(fit.stated, right)
    with_choices = [(e, g) for e, g in zip(examples, given, strict=True) if g.means]
    temperature = fit_temperature(*_choices(with_choices)) if len(with_choices) >= LEAST_CHOICES else None
    fitted: dict[str, float | str] = {
        "questions": stated.count,
        "right": round(stated.right, 5),
        "form": fit.form,
        "held_out_ece": round(stated.ece, 5),
        "held_out_brier": round(stated.brier, 5),
        "held_out_nll": round(stated.nll, 5),
        "choices": len(with_choices) if temperature is not None else 0,
    }
    calibration = Calibration(model_id, fit.answers, temperature, fitted)
    tables = [] if temperature is None else [first_choices(with_choices, t) for t in (1.0, temperature)]
    raw = reliability([min(g.probability, 1.0) for g in said], right)
    return Outcome(calibration, raw, stated, fit.nll, len(given) - len(whole), *tables)


def first_choices(whole: Sequence[tuple[Example, Given]], temperature: float = 1.0) -> Reliability:
    """Figures of the choice put first: what the softmax of the mean log-probabilities at ``temperature`` says of it."""
    stated, right = [], []
    for means, good in zip(*_choices(whole), strict=True):
        sure = softmax(means, temperature)
        first = int(np.argmax(means))
        stated.append(min(sure[first], 1.0))
        right.append(good[first])
    return reliability(stated, right)


def _choices(whole: Sequence[tuple[Example, Given]]) -> tuple[list[tuple[float, ...]], list[list[bool]]]:
    """(means, whether each choice is accepted) of every question with choices."""
    good = [[plain(c) in set(map(plain, accepted(e))) for c in e.choices] for e, _ in whole]
    return [g.means for _, g in whole], good


def _group(example: Example) -> str:
    """Questions about one picture are one group."""
    paths = [str(one) for one in example.images if isinstance(one, Path)]
    return " ".join(paths) or example.where
