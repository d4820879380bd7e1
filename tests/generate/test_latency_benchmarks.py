"""benchmarks/choices_cost.py and benchmarks/deadlines.py, tiny, on the demo model: what they print and refuse."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import tinygptv_fast as tgv

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def rows(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_choices_cost(load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    load("choices_cost").main(["--rounds", "2", "--threads", "1"])
    choices, again = rows(capsys)
    assert (choices["what"], choices["choices"], choices["rounds"]) == ("choices", 8, 2)
    assert choices["prompt_tokens"] >= 96 and max(choices["choice_tokens"]) <= 3
    assert 0 < choices["ratio_least"] <= choices["ratio"] <= choices["ratio_most"] and choices["prefill_ms"] > 0
    assert (again["what"], again["rounds"]) == ("again", 2) and 0 < again["vision_ms"] <= again["first_ms"]
    assert choices["git"] == again["git"] and len(choices["model"]) == 12


def test_prompts_share_no_page(load: Any) -> None:
    """What is called a cold prompt is one: the engine finds nothing of it in its cache."""
    module: ModuleType = load("choices_cost")
    with tgv.TinyGPTV.from_pretrained("demo", threads=1) as model:
        known = [model.tokenizer.encode(module.fresh_prompt(model, number))[:16] for number in (1, 2, 3, 21, 40)]
        assert len({tuple(ids) for ids in known}) == 5


def test_scores_that_differ_are_not_timed(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module: ModuleType = load("choices_cost")
    rank = tgv.TinyGPTV.rank

    def off(self: tgv.TinyGPTV, image: Any, prompt: str, candidates: Any, **more: Any) -> list[tgv.Answer]:
        found = rank(self, image, prompt, candidates, **more)
        return [replace(one, logprobs=[-1.0]) for one in found] if len(found) == 1 else found

    monkeypatch.setattr(tgv.TinyGPTV, "rank", off)
    with tgv.TinyGPTV.from_pretrained("demo", threads=1) as model:
        with pytest.raises(SystemExit, match="are scored otherwise together than alone"):
            module.check_choices(model, ["red", "blue"])


def test_deadlines(load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    load("deadlines").main(["--count", "6", "--cancels", "4", "--least", "0.0001", "--most", "0.02", "--threads", "1"])
    found = rows(capsys)
    for way, asked in (("deadline", 6), ("cancel", 4)):
        mine = [row for row in found if row["what"] == way]
        assert sum(row["count"] for row in mine) == asked and mine[-1]["phase"] == "finished"
        for row in mine[:-1]:
            assert row["phase"] in ("vision", "prefill", "decode")
            assert row["overshoot_ms_p50"] <= row["overshoot_ms_p99"] <= row["overshoot_ms_most"]
    assert all(row["benchmark"] == "deadlines" and "git" in row for row in found)


def test_phases_and_percentiles(load: Any) -> None:
    module: ModuleType = load("deadlines")
    found = [("decode", float(ms)) for ms in range(101)] + [("vision", 7.0), ("finished", None)]
    vision, decode, finished = module.summarise(found)
    assert (vision["phase"], vision["count"], vision["overshoot_ms_p99"]) == ("vision", 1, 7.0)
    assert (decode["overshoot_ms_p50"], decode["overshoot_ms_p99"], decode["overshoot_ms_most"]) == (50, 99, 100)
    assert finished == {"phase": "finished", "count": 1}


def test_each_phase_is_told(load: Any) -> None:
    module: ModuleType = load("deadlines")
    with tgv.TinyGPTV.from_pretrained("demo", threads=1) as model:
        shown = module.picture(1)
        assert module.end_by_deadline(model, shown, 1e-6, 8)[0] == "vision"
        assert module.end_by_cancel(model, shown, 600, 8) == ("finished", None)
        whole = model.generate(shown, **module.ENDLESS, max_new_tokens=8)
    assert module.phase_of(whole) == "finished" and whole.finish_reason == "length"
    assert module.phase_of(replace(whole, finish_reason="cancelled")) == "decode"
    assert module.phase_of(replace(whole, finish_reason="deadline", token_ids=[])) == "prefill"


def test_an_answer_that_changes_is_not_timed(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module: ModuleType = load("deadlines")
    generate = tgv.TinyGPTV.generate

    def off(self: tgv.TinyGPTV, *given: Any, **settings: Any) -> tgv.Answer:
        answer = generate(self, *given, **settings)
        return replace(answer, token_ids=[0, *answer.token_ids]) if "deadline_ms" in settings else answer

    monkeypatch.setattr(tgv.TinyGPTV, "generate", off)
    with tgv.TinyGPTV.from_pretrained("demo", threads=1) as model:
        with pytest.raises(SystemExit, match="before a deadline"):
            module.check(model, 600.0)
