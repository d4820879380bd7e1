"""Fitting confidence: known truths are found again, the figures by hand, judging, the file of answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinygptv_fast.data.judging import is_accepted
from tinygptv_fast.diagnosis import fitting
from tinygptv_fast.diagnosis.answering import Given, answer_examples, messages, read_answers, task_of
from tinygptv_fast.diagnosis.calibrating import calibrate, judged
from tinygptv_fast.diagnosis.fitting import FORMS, fit_answers, fit_form, fit_temperature
from tinygptv_fast.diagnosis.reliability import reliability
from tinygptv_fast.errors import InvalidArgumentError
from tinygptv_fast.generate.confidence import Evidence, logistic, softmax
from tinygptv_fast.train.stages.examples import Example, Turn

BOX, NEAR, FAR = "{<10><10><50><50>}", "{<12><10><50><52>}", "{<60><60><90><90>}"


def drawn(count: int, seed: int = 0, boxes: float = 0.0) -> tuple[list[Evidence], list[bool], np.ndarray]:
    """Evidence, outcomes and the true probabilities: a logistic of the words and, of some, of a box."""
    rng = np.random.default_rng(seed)
    found, truth = [], []
    for _ in range(count):
        words, boxed = -float(rng.exponential(0.5)), bool(rng.random() < boxes)
        places = -1.0 - float(rng.random()) if boxed else 0.0
        found.append(Evidence(words + 8 * places, words, words / 2, places, boxed))
        truth.append(logistic(2.5 + 3 * words + (4 + 3 * places if boxed else 0.0)))
    return found, (rng.random(count) < truth).tolist(), np.array(truth)


def each(count: int) -> list[str]:
    return [str(number) for number in range(count)]


# -- figures -----------------------------------------------------------------------------------------------------------
def test_reliability_by_hand() -> None:
    found = reliability([0.9, 0.9, 0.9, 0.1, 1.0], [True, True, False, False, True], bins=10)
    assert [(one.count, round(one.right, 3)) for one in found.curve] == [(1, 0.0), (4, 0.75)]
    assert found.ece == pytest.approx((1 * 0.1 + 4 * abs(0.925 - 0.75)) / 5)
    assert found.brier == pytest.approx((0.01 + 0.01 + 0.81 + 0.01 + 0) / 5)
    assert found.nll == pytest.approx(-(3 * np.log(0.9) + np.log(0.1) + np.log(1)) / 5)
    assert found.auc == pytest.approx((2 * 1.5 + 2) / 6)
    assert json.loads(json.dumps(found.to_dict()))["count"] == 5
    for stated, right in (([], []), ([0.5], [True, False]), ([1.5], [True]), ([float("nan")], [True])):
        with pytest.raises(InvalidArgumentError, match="stated is"):
            reliability(stated, right)


@pytest.mark.parametrize(
    ("given", "accepted", "task", "expected"),
    [
        ("Red.", ["red"], None, True),
        (" two  things", ["2", "two things"], "vqa", True),
        ("red", ["blue", "green"], None, False),
        (NEAR, [BOX], "refer", True),
        (FAR, [BOX], "refer", False),
        ("there is no cup", [BOX], "refer", False),
        (BOX, ["there is no cup"], "refer", False),
        (f"<p>cup</p>{NEAR}", [f"<p>cup</p>{BOX}"], "detection", True),
        (f"<p>cup</p>{NEAR}<delim>{FAR}", [f"<p>cup</p>{BOX}"], "detection", False),
        (f"<p>dog</p>{NEAR}", [f"<p>cup</p>{BOX}"], "detection", False),
        ("a star and a ring", ["a ring and a star"], "caption", True),
        ("a star and a ring", ["a ring and a star"], "vqa", False),
    ],
)
def test_judging(given: str, accepted: list[str], task: str | None, expected: bool) -> None:
    assert is_accepted(given, accepted, task) is expected


# -- fitting -----------------------------------------------------------------------------------------------------------
def test_a_known_truth_is_found_again() -> None:
    found, right, truth = drawn(6000, boxes=0.3)
    fit = fit_answers(found, right, each(6000))
    assert fit.form == "parts"
    stated = np.array([fit.answers(one) for one in found])
    assert np.abs(stated - truth).mean() < 0.015
    fresh, outcome, _ = drawn(4000, seed=1, boxes=0.3)
    assert (
        reliability([fit.answers(one) for one in fresh], outcome).ece < 0.03
    )  # 15 bins of 4,000 outcomes: 0.02 by chance


def test_boxes_apart_are_worth_it_and_the_simplest_form_wins_a_draw() -> None:
    found, right, _ = drawn(3000, boxes=0.3)
    fit = fit_answers(found, right, each(3000))
    assert fit.nll["parts"] < fit.nll["sum"] - 0.01
    plain, right, _ = drawn(3000)
    assert fit_answers(plain, right, each(3000)).form == "sum"


def test_isotonic_is_taken_where_no_logistic_fits() -> None:
    rng = np.random.default_rng(3)
    words = -rng.exponential(1.0, 6000)
    truth = np.where(words > -1, 0.95, np.where(words > -2, 0.5, 0.45))
    found = [Evidence(w, w, w, 0.0, False) for w in words.tolist()]
    fit = fit_answers(found, (rng.random(6000) < truth).tolist(), each(6000))
    assert fit.form == "parts, isotonic" and 2 <= len(fit.answers.knots) <= fitting.GROUPS
    off = np.abs(np.array([fit.answers(one) for one in found]) - truth)
    assert off.mean() < 0.06  # lines between pools cut corners


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_confidence_never_falls_where_a_log_probability_rises(form: fitting.Form) -> None:
    found, right, _ = drawn(300, seed=5, boxes=0.3)
    wrong_way = [not one for one in right]  # the data say that sure answers are wrong
    for outcome in (right, wrong_way):
        made = fit_form(form, found, np.asarray(outcome, float))
        assert all(slope >= 0 for slope in made.slopes.values())
        steps = [made(Evidence(w, w, w, 0.0, False)) for w in np.linspace(-6, 0, 50).tolist()]
        assert steps == sorted(steps) and 0 <= steps[0] and steps[-1] <= 1


def test_separable_answers_stay_finite() -> None:
    found = [Evidence(-float(n), -float(n), -float(n), 0.0, False) for n in range(40)]
    fit = fit_answers(found, [n < 20 for n in range(40)], each(40))
    assert np.isfinite([fit.answers.bias, *fit.answers.slopes.values()]).all() and fit.answers(found[0]) > 0.8


def test_too_few_of_a_sort_are_refused() -> None:
    found, _, _ = drawn(60)
    with pytest.raises(InvalidArgumentError, match="51 answers that came out right and 9 wrong, expected at least 10"):
        fit_answers(found, [n >= 9 for n in range(60)], each(60))


def test_answers_about_one_picture_are_held_out_together() -> None:
    found, right, _ = drawn(200, seed=2)
    pairs = [str(number // 2) for number in range(200)]
    fold = fitting._folds(pairs)
    assert (fold[::2] == fold[1::2]).all() and set(fold) == set(range(fitting.FOLDS))
    whole = fit_answers(found, right, ["one"] * 200)
    assert whole.stated == [pytest.approx(np.mean(right))] * 200  # nothing to learn from: the mean


def test_the_temperature_of_choices_is_found_again() -> None:
    rng = np.random.default_rng(7)
    means = [tuple((-rng.exponential(1.0, 4)).tolist()) for _ in range(3000)]
    right = []
    for each_means in means:
        sure = softmax(each_means, 0.4)
        at = rng.choice(4, p=np.array(sure) / sum(sure))
        right.append([index == at for index in range(4)])
    assert fit_temperature(means, right) == pytest.approx(0.4, rel=0.1)
    with pytest.raises(InvalidArgumentError, match="3 questions with choices, expected none or 20"):
        fit_temperature(means[:3], right[:3])


# -- examples and answers ----------------------------------------------------------------------------------------------
def test_an_example_as_messages() -> None:
    turns = (Turn("[vqa] is it?", "yes"), Turn("and where?", BOX))
    made = messages(Example(turns, (Path("a.png"),), where="x"))
    assert [one["role"] for one in made] == ["user", "assistant", "user"]
    assert made[0]["content"] == [{"type": "image", "image": "a.png"}, {"type": "text", "text": "[vqa] is it?"}]
    tagged = Example((Turn("where?", BOX),), task="refer")
    assert messages(tagged)[0]["content"] == [{"type": "text", "text": "[refer] where?"}]
    assert (task_of(tagged), task_of(Example(turns)), task_of(Example(turns[:1]))) == ("refer", None, "vqa")


class Fake:
    """Counts what is asked; says "yes" to every question, surer of some."""

    info: dict[str, Any] = {"model_id": "m" * 64}  # noqa: RUF012

    def __init__(self, fail_at: int = 1 << 30) -> None:
        self.asked, self.fail_at = 0, fail_at


def asked(monkeypatch: pytest.MonkeyPatch, fake: Fake) -> Any:
    def ask(model: Any, part: Sequence[Example], settings: Any) -> list[Given]:
        if fake.asked >= fake.fail_at:
            raise KeyboardInterrupt
        fake.asked += len(part)
        return [Given("yes", "stop", Evidence(-0.5, -0.5, -0.5, 0.0, False), 0.6, (-0.5, -1.0)) for _ in part]

    monkeypatch.setattr("tinygptv_fast.diagnosis.answering._ask", ask)
    return fake


EXAMPLES = [Example((Turn(f"q{n}", "yes" if n % 3 else "no"),), where=str(n)) for n in range(50)]


def test_answers_are_kept_and_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "answers.jsonl"
    first = asked(monkeypatch, Fake(fail_at=32))
    with pytest.raises(KeyboardInterrupt):
        answer_examples(first, EXAMPLES, "d", {}, path)
    assert first.asked == 32 and len(path.read_text().splitlines()) == 33
    with path.open("a") as handle:
        handle.write('{"text": "cut sh')  # as a machine that lost its power leaves it
    second = asked(monkeypatch, Fake())
    steps: list[tuple[int, int]] = []
    given = answer_examples(second, EXAMPLES, "d", {}, path, lambda done, total: steps.append((done, total)))
    assert second.asked == 18 and len(given) == 50 and steps == [(32, 50), (48, 50), (50, 50)]
    third = asked(monkeypatch, Fake())
    assert answer_examples(third, EXAMPLES, "d", {}, path) == given and third.asked == 0
    for digest, settings, what in (("e", {}, "data"), ("d", {"template": "raw"}, "settings")):
        with pytest.raises(InvalidArgumentError, match=f"answers of other {what}; expected a new file"):
            answer_examples(third, EXAMPLES, digest, settings, path)


@pytest.mark.parametrize("line", ["[]", "{}", "no", '{"evidence": 3}', '{"evidence": {"total": "x"}}'])
def test_a_file_of_something_else_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(InvalidArgumentError, match=r"answers is .*expected a new file"):
        read_answers(path, {}, 10)
    path.write_text('{"kind": "tinygptv_calibration_answers", "version": 1}\n' + line + "\n")
    with pytest.raises(InvalidArgumentError, match="whose line 2 is no answer"):
        read_answers(path, {}, 10)


def test_answers_that_did_not_end_are_left_out() -> None:
    found, right, _ = drawn(100, seed=4)
    examples = [Example((Turn("q", "yes"),), where=str(n)) for n in range(120)]
    given = [Given("yes" if ok else "no", "stop", one, 0.5) for one, ok in zip(found, right, strict=True)]
    given += [Given("no", "length", found[0], 0.5)] * 20
    made = calibrate("m", examples, given)
    assert made.cut_short == 20 and made.stated.count == 100 and made.choices is None
    assert made.calibration.temperature is None and made.calibration.choices([-1.0, -2.0]) is None
    assert judged(examples[:100], given[:100]) == right
    with pytest.raises(InvalidArgumentError, match="none ended by itself"):
        calibrate("m", examples[100:], given[100:])
