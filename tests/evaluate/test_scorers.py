"""The paper-compatible scorers against what the original's code computed (golden vqa.json and boxes.json)."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinygptv_fast.errors import InvalidArgumentError, UnsupportedError
from tinygptv_fast.evaluate import cider as cider_module
from tinygptv_fast.evaluate.cider import cider, tokens
from tinygptv_fast.evaluate.question import Given, Question, Target
from tinygptv_fast.evaluate.sets import refcoco, vizwiz, vqa
from tinygptv_fast.evaluate.statistics import auroc, bootstrap, mean_interval

GOLDEN = Path(__file__).parents[1] / "golden" / "golden"
VQA: dict[str, Any] = json.loads((GOLDEN / "vqa.json").read_text())
BOXES: dict[str, Any] = json.loads((GOLDEN / "boxes.json").read_text())


def question(*truths: str, target: Target | None = None) -> Question:
    return Question("1", "x", Path("x.png"), "?", truths, target=target, paper_target=target)


def test_okvqa_and_vqav2_are_the_goldens() -> None:
    rows = VQA["accuracy"]
    found = [vqa.strict(question(*row["gt"]), Given(row["answer"])) for row in rows]
    assert [round(100 * one, 2) for one in found] == [row["vqaEval"] for row in rows]
    assert round(100 * statistics.mean(found), 2) == VQA["accuracy_overall"]["vqaEval"]
    kept = [row for row in rows if row["answer"] == row["answer"].lower()]  # the script lower-cases before it scores
    assert kept
    for row in kept:
        assert round(100 * vqa.paper(question(*row["gt"]), Given(row["answer"])), 2) == row["vqaEval"]


def test_vizwiz_is_the_golden() -> None:
    for row in VQA["vizwiz_accuracy"]["rows"]:
        assert vizwiz.paper(question(*row["gt"]), Given(row["answer"])) == row["acc"]


@pytest.mark.parametrize("row", BOXES["refcoco_scoring"]["rows"], ids=lambda row: row["raw"])
def test_refcoco_is_the_golden(row: dict[str, Any]) -> None:
    item = BOXES["refcoco_scoring"]["item"]
    target = Target(tuple(item["bbox"]), item["width"], item["height"])
    hit = refcoco.paper(question(target=target), Given(row["raw"]))
    assert hit == float(row["accepted"] and row.get("hit", False))


def test_auroc_is_the_share_of_ordered_pairs() -> None:
    rng = np.random.default_rng(1)
    for size in (2, 3, 10, 57):
        scores, labels = rng.integers(0, 6, size).astype(float), rng.integers(0, 2, size)
        labels[:2] = (0, 1)
        pairs = [(p > n) + 0.5 * (p == n) for p in scores[labels == 1] for n in scores[labels == 0]]
        assert auroc(scores, labels) == pytest.approx(np.mean(pairs))
    assert auroc([1.0, 2.0], [1, 1]) is None


def test_bootstrap() -> None:
    values = [1.0] * 30 + [0.0] * 70
    low, high = mean_interval(values, seed=3)
    assert (low, high) == mean_interval(values, seed=3) != mean_interval(values, seed=4)
    # the binomial's own interval: 0.3 ± 1.96 √(0.3·0.7/100)
    assert low == pytest.approx(0.3 - 0.09, abs=0.02) and high == pytest.approx(0.3 + 0.09, abs=0.02)
    assert mean_interval([1.0, 1.0]) == (1.0, 1.0)
    assert bootstrap(3, lambda chosen: None) is None
    with pytest.raises(InvalidArgumentError, match="count is 0"):
        bootstrap(0, lambda chosen: 0.0)


def test_cider_is_that_of_the_formula() -> None:
    """Worked by hand for words of one document each: every n-gram of both texts is in one picture's references alone,
    so that all idf are log 2 and the score of equal texts is 10 times the share of the n that both are long enough
    for."""
    references = {"1": ["A red dog runs fast."], "2": ["Two cats sleep!"]}
    found = cider({"1": "a red dog runs fast", "2": "two, cats sleep"}, references)
    assert found["1"] == pytest.approx(10.0) and found["2"] == pytest.approx(7.5)
    assert cider({"1": "", "2": "nothing here"}, references) == {"1": 0.0, "2": 0.0}
    assert tokens("A man's \"red\" dog -- can't jump...") == "a man 's red dog ca n't jump"
    assert tokens("there (is)") == "there -lrb- is -rrb-"  # as the COCO evaluation's own tokens are


def test_cider_without_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pycocoevalcap.cider.cider", None)
    with pytest.raises(UnsupportedError, match=r"CIDEr needs pip install 'tinygptv_fast\[eval\]'"):
        cider_module.check_available()
