"""compat.vqa, compat.caption and compat.schedule against every row the original produced (golden vqa.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tinygptv_fast.compat import vqa
from tinygptv_fast.compat.caption import blip_caption
from tinygptv_fast.compat.schedule import WarmupCosine
from tinygptv_fast.errors import InvalidArgumentError

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden/golden/vqa.json").read_text())


@pytest.mark.parametrize("row", GOLDEN["normalise"], ids=lambda row: repr(row["raw"]))
def test_normalise(row: dict[str, Any]) -> None:
    assert vqa.process_punctuation(vqa.strip_whitespace(row["raw"])) == row["punctuation"]
    assert vqa.normalize(row["raw"]) == row["final"] == row["final_vqaEval"]


@pytest.mark.parametrize("row", GOLDEN["accuracy"], ids=lambda row: f"{row['answer']} {row['gt'][0]!r}")
def test_accuracy(row: dict[str, Any]) -> None:
    assert vqa.vqa_accuracy(row["answer"], row["gt"], "vqa_eval") == row["vqa_eval"]
    assert vqa.vqa_accuracy(row["answer"], row["gt"]) == row["vqaEval"]


@pytest.mark.parametrize("scorer", ["vqa_eval", "vqaEval"])
def test_overall_accuracy(scorer: vqa.Scorer) -> None:
    rows = [(row["answer"], row["gt"]) for row in GOLDEN["accuracy"]]
    assert vqa.overall_accuracy(rows, scorer) == GOLDEN["accuracy_overall"][scorer]


@pytest.mark.parametrize("row", GOLDEN["answer_postprocess"]["rows"], ids=lambda row: row["raw"])
def test_postprocess(row: dict[str, Any]) -> None:
    assert vqa.postprocess_okvqa(row["raw"]) == row["okvqa"]
    assert vqa.postprocess_vizwiz(row["raw"]) == row["vizwiz"]
    assert vqa.postprocess_chat(row["raw"]) == row["chat"]


@pytest.mark.parametrize("row", GOLDEN["vizwiz_accuracy"]["rows"], ids=lambda row: repr(row["answer"]))
def test_vizwiz_accuracy(row: dict[str, Any]) -> None:
    assert vqa.vizwiz_accuracy(row["answer"], row["gt"]) == row["acc"]


@pytest.mark.parametrize("row", GOLDEN["blip_caption"], ids=lambda row: repr(row["raw"][:30]))
def test_blip_caption(row: dict[str, Any]) -> None:
    assert blip_caption(row["raw"]) == row["out"]


@pytest.mark.parametrize("row", GOLDEN["lr_schedule"]["rows"], ids=lambda row: f"warmup{row['warmup_steps']}")
def test_lr_schedule(row: dict[str, Any]) -> None:
    schedule = WarmupCosine(**{key: value for key, value in row.items() if key != "lrs"})
    steps = row["iters_per_epoch"]
    lrs = [schedule.lr(epoch, step) for epoch in range(row["max_epoch"]) for step in range(steps)]
    assert lrs == row["lrs"]


def test_bad_arguments() -> None:
    with pytest.raises(InvalidArgumentError, match="ground_truths is empty"):
        vqa.vqa_accuracy("yes", [])
    with pytest.raises(InvalidArgumentError, match="scorer is 'vqa'"):
        vqa.vqa_accuracy("yes", ["yes"], "vqa")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="rows is empty"):
        vqa.overall_accuracy([])
    with pytest.raises(InvalidArgumentError, match="iters_per_epoch is 0"):
        WarmupCosine(1, 0, 0.0, 1.0)
