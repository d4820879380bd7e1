"""``eval`` and ``export-world`` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tinygptv_fast.evaluate.run import TOGETHER
from tinygptv_fast.generate import TinyGPTV


@pytest.fixture
def drawn(run, tmp_path: Path) -> list[str]:
    """The options that name the files of a drawn VSR."""
    done = run("export-world", "--format", "vsr", "--out", tmp_path / "vsr", "--count", 2 * TOGETHER, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["kind"] == "export" and told["questions"] == 2 * TOGETHER
    return ["--data", told["data"], "--images", told["images"]]


def test_an_evaluation_that_is_interrupted_and_goes_on(
    run, drawn: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = TinyGPTV.generate_batch, []

    def interrupted(self: TinyGPTV, *args: Any, **settings: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, *args, **settings)

    monkeypatch.setattr(TinyGPTV, "generate_batch", interrupted)
    out = tmp_path / "run"
    command = ["eval", "vsr", *drawn, "--model", "demo", "--protocol", "plain", "--out", out, "--threads", "1"]
    done = run(*command)
    assert done.code == 130 and "the same command goes on with the rest" in done.err
    assert len((out / "answers.jsonl").read_text().splitlines()) == 1 + TOGETHER
    done = run(*command, "--json")
    assert done.code == 0, done.err
    assert done.err.splitlines() == [f"{TOGETHER} of {2 * TOGETHER} answered before"]
    told = json.loads(done.out)
    assert told["kind"] == "evaluation" and told["answered"] == 2 * TOGETHER and len(calls) == 3
    assert [row["scorer"] for row in told["figures"]] == ["strict", "paper-compatible"]
    Path(drawn[1]).open("a").write("{broken\n")
    refused = run(*command)
    assert refused.code == 2 and "holds answers of other data" in refused.err
    shown = run(*command[:-3], tmp_path / "second", "--threads", "1")
    assert shown.code == 0 and "line 17: it is not json" in shown.err
    assert "VSR: 16 answers, 1 records skipped" in shown.out and "strict            accuracy" in shown.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "mmlu", "{data}"], "SET is 'mmlu', expected one of gqa, vsr"),
        (["eval", "vsr", "{data}"], "eval needs --model"),
        (["eval", "okvqa", "{data}", "--model", "demo"], "--annotations is missing"),
        (["eval", "vsr", "{data}", "--annotations", "{file}"], "--annotations is given, but vsr has its answers in"),
        (["eval", "vsr", "{data}", "--model", "demo", "--beside", "{folder}"], "--beside is given without --compare"),
        (["eval", "vsr", "{data}", "--model", "demo", "--compare", "--beside", "{file}"], "expected a directory"),
        (["eval", "vsr", "{data}", "--model", "demo", "--template", "sing"], "template is 'sing'"),
        (["eval", "vsr", "{data}", "--model", "demo", "--template", "raw"], "template is 'raw'"),
        (["eval", "vsr", "{data}", "--model", "demo"], "holds no question that can be asked"),
        (["export-world", "--format", "mmlu", "--out", "{new}"], "--format is 'mmlu'"),
        (["export-world", "--format", "gqa", "--out", "{folder}"], "which exists; expected a new directory"),
    ],
)
def test_bad_input(run, tmp_path: Path, arguments: list[str], message: str) -> None:
    file = tmp_path / "empty.jsonl"
    file.write_text("")
    words: list[str] = []
    for word in arguments:
        if word == "{data}":
            words += ["--data", str(file), "--images", str(tmp_path), "--out", str(tmp_path / "new")]
        else:
            words.append(word.format(file=file, folder=tmp_path, new=tmp_path / "new"))
    done = run(*words)
    assert (done.code, done.out) == (2, "") and done.err.count("\n") == 1 and message in done.err, done.err
    assert not (tmp_path / "new").exists()
