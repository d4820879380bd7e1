"""benchmarks/calibration.py without a model: its examples, its figures, its curve, its exit code and what it writes."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tinygptv_fast.diagnosis.answering import Given, messages
from tinygptv_fast.generate.confidence import FILE, Evidence, logistic, read_calibration

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MODEL = "c" * 64


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("calibration")


def given(item: Any, rng: np.random.Generator, lie: float = 0.0) -> Given:
    """An answer that is right as often as its log-probability says; ``lie``: more often than it is."""
    words = -float(rng.exponential(0.7))
    right = rng.random() < logistic(2 + 3 * words - lie)
    text = item.question.answer if right else "no idea"
    return Given(text, "stop", Evidence(words, words, words, 0.0, False), float(np.exp(words)))


class Model:
    info: dict[str, Any] = {"model_id": MODEL}  # noqa: RUF012

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def run(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lie: float, *more: str
) -> tuple[int, dict[str, Any]]:
    def answered(model: Any, name: str, items: Any, seed: int, work: Path) -> list[Given]:
        rng = np.random.default_rng(seed)
        return [given(item, rng, lie if name == "test" else 0.0) for item in items]

    printed: list[str] = []
    monkeypatch.setattr(benchmark, "answered", answered)
    monkeypatch.setattr(benchmark.TinyGPTV, "from_pretrained", lambda *a, **k: Model())
    monkeypatch.setattr("builtins.print", lambda *text, **k: printed.append(" ".join(map(str, text))))
    arguments = ["--model", tmp_path, "--work", tmp_path / "work", "--fit", "400", "--test", "400", *more]
    monkeypatch.setattr(sys, "argv", ["calibration.py", *map(str, arguments)])
    code = benchmark.main()
    return code, json.loads(next(line for line in printed if line.startswith("{")))


def test_an_example_asks_what_the_examination_asks(benchmark: ModuleType) -> None:
    items = benchmark.make_exam(44, seed=5)
    assert {item.question.kind for item in items} >= {"refer", "dialogue", "caption"}
    for item in items:
        made = benchmark.example(item)
        asked = messages(made)
        wanted = item.question.messages()
        assert isinstance(asked[0]["content"][0]["image"], Image.Image)
        assert asked[0]["content"][1:] == wanted[0]["content"][1:] and asked[1:] == wanted[1:]
        assert not made.choices or item.question.answer in made.choices


def test_honest_answers_pass_and_are_written(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, line = run(benchmark, monkeypatch, tmp_path, 0.0, "--write", "--plot", str(tmp_path / "curve.png"))
    test = line["test"]
    assert test["judged_otherwise_by_the_world"] == 0 and test["raw"]["count"] == test["confidence"]["count"] >= 400
    assert test["confidence"]["brier"] < test["raw"]["brier"] and code == (test["confidence"]["ece"] > benchmark.LIMIT)
    assert sum(row["count"] for row in test["families"].values()) == test["raw"]["count"]
    read = read_calibration(tmp_path, MODEL)
    assert read is not None and (tmp_path / FILE).exists() and read.fitted["questions"] >= 400
    with Image.open(tmp_path / "curve.png") as drawn:
        assert drawn.width > 300


def test_a_model_that_has_changed_since_the_fit_fails(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, line = run(benchmark, monkeypatch, tmp_path, 4.0)
    assert code == 1 and line["test"]["confidence"]["ece"] > 0.2 and not (tmp_path / FILE).exists()
