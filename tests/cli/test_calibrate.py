"""``tinygptv calibrate`` on a copy of the demo model: what it writes, what answers then carry, what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tinygptv_fast.checkpoint.directory import open_directory
from tinygptv_fast.cli import main
from tinygptv_fast.cli.models import local_directory
from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.sampler import exam
from tinygptv_fast.diagnosis.answering import evidence_of
from tinygptv_fast.errors import CheckpointError
from tinygptv_fast.generate import TinyGPTV
from tinygptv_fast.generate.confidence import FILE, read_calibration

KINDS, EACH = ("colour", "count", "refer"), 32
COLOURS = ["red", "green", "blue", "yellow", "orange", "purple", "black", "white"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions with pictures; a third of them with another scene's picture, so that answers of every model are right
    and wrong."""
    folder = tmp_path_factory.mktemp("data")
    records: list[dict[str, Any]] = []
    for number, item in enumerate(exam(77, KINDS, EACH)):
        draw(item.other_scene if number % 3 == 0 else item.scene, 96).save(folder / f"{number}.png")
        question = item.question
        record = {"image": f"{number}.png", "question": question.prompt, "task": question.task}
        wrong = [] if question.kind == "refer" else [f"not {question.answer}"]
        more = {"choices": list(dict.fromkeys([question.answer, *COLOURS]))} if question.kind == "colour" else {}
        records.append({**record, "answer": [question.answer, *wrong], **more})
    (folder / "questions.json").write_text(json.dumps(records))
    return folder / "questions.json"


@pytest.fixture(scope="module")
def calibrated(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo model, calibrated in place. Tests must not change it."""
    path = tmp_path_factory.mktemp("models") / "mine"
    shutil.copytree(local_directory("demo"), path)
    (path / FILE).unlink(missing_ok=True)
    assert main(["calibrate", str(data), "--model", str(path), "--threads", "1", "--quiet"]) == 0
    return path


def test_what_is_written(calibrated: Path, data: Path) -> None:
    read = read_calibration(calibrated, open_directory(calibrated).content_hash)
    assert read is not None and read.temperature is not None and read.fitted["questions"] == len(KINDS) * EACH
    assert read.fitted["choices"] == EACH and 0.2 < float(read.fitted["right"]) < 0.95
    assert len(data.with_name("questions.json.answers.jsonl").read_text().splitlines()) == len(KINDS) * EACH + 1


def test_answers_carry_the_confidence_that_was_fitted(calibrated: Path, data: Path) -> None:
    question = "[vqa] What colour is the circle?"
    with TinyGPTV.from_pretrained(calibrated, threads=1) as model:
        read = read_calibration(calibrated, model.info["model_id"])
        assert read is not None and model.info["calibration"] == dict(read.fitted)
        answer = model.generate(data.parent / "0.png", question)
        assert answer.confidence == pytest.approx(read.answers(evidence_of(answer, model.tokenizer)))
        assert answer.to_dict()["confidence"] == answer.confidence and 0 < answer.confidence < 1
        found = model.generate(data.parent / "1.png", "[refer] the red circle")
        assert found.confidence == pytest.approx(read.answers(evidence_of(found, model.tokenizer)))
        *_, last = model.stream(data.parent / "0.png", question)
        assert last.answer is not None and last.answer.confidence == pytest.approx(answer.confidence)
        assert model.generate(data.parent / "0.png", question, max_new_tokens=1).confidence is None
        first = model.generate(data.parent / "0.png", question, choices=COLOURS)
        sure = [one.confidence for one in (first, *first.alternatives)]
        assert sure == sorted(sure, reverse=True) and sum(sure) == pytest.approx(1)
        kept = model.generate(data.parent / "0.png", question, num_beams=2, num_return_sequences=2)
        assert kept.confidence is not None and all(one.confidence is not None for one in kept.alternatives)


def test_without_a_calibration_there_is_none(data: Path, tmp_path: Path) -> None:
    shutil.copytree(local_directory("demo"), tmp_path / "plain")
    (tmp_path / "plain" / FILE).unlink(missing_ok=True)
    with TinyGPTV.from_pretrained(tmp_path / "plain", threads=1) as model:
        picture = data.parent / "0.png"
        first = model.generate(picture, "[vqa] What colour is the circle?", choices=COLOURS)
        assert model.info["calibration"] is None and first.confidence is None
        assert all(one.confidence is None for one in first.alternatives)


def test_of_another_model_it_is_refused(run, calibrated: Path, int4_model: Path, picture: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(int4_model, other)
    shutil.copy(calibrated / FILE, other)
    with pytest.raises(CheckpointError, match="was fitted for model"):
        TinyGPTV.from_pretrained(other)
    done = run("ask", picture, "why?", "--model", other)
    assert done.code == 2 and done.err.count("\n") == 1 and "'tinygptv calibrate'" in done.err
    assert "was fitted for model" in run("verify", other).err + run("verify", other).out


def test_again_nothing_is_asked_and_a_copy_is_the_same(run, calibrated: Path, data: Path, tmp_path: Path) -> None:
    kept = data.with_name("questions.json.answers.jsonl").read_bytes()
    done = run("calibrate", data, "--model", calibrated, "--out", tmp_path / "copy", "--json", "--threads", "1")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["kind"] == "calibration" and told["path"] == str(tmp_path / "copy" / FILE)
    assert told["held_out"]["count"] == len(KINDS) * EACH and set(told["held_out_nll"]) >= {"sum", "parts"}
    assert told["choices"]["count"] == EACH and told["cut_short"] == 0
    assert (tmp_path / "copy" / FILE).read_bytes() == (calibrated / FILE).read_bytes()
    assert sorted(p.name for p in (tmp_path / "copy").iterdir()) == sorted(p.name for p in calibrated.iterdir())
    assert data.with_name("questions.json.answers.jsonl").read_bytes() == kept
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())
    shown = run("calibrate", data, "--model", tmp_path / "copy", "--threads", "1")
    assert "confidence, held out" in shown.out and "choices, fitted" in shown.out
    asked = run("ask", data.parent / "0.png", "[vqa] What colour is the circle?", "--model", tmp_path / "copy")
    assert ", confidence 0." in asked.err
    assert run("verify", tmp_path / "copy", "--summary").code == 0
    assert "calibration" in run("info", tmp_path / "copy").out


def test_an_interrupted_run_goes_on(run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = data.with_name("questions.json.answers.jsonl")
    part = tmp_path / "part.jsonl"
    part.write_text("".join(kept.read_text().splitlines(keepends=True)[: 1 + 80]))
    from tinygptv_fast.diagnosis import answering

    ask, calls = answering._ask, []

    def interrupted(model: Any, examples: Any, settings: Any) -> Any:
        calls.append(len(examples))
        raise KeyboardInterrupt

    more = ["--model", "demo", "--out", tmp_path / "copy", "--answers", part, "--threads", "1"]
    monkeypatch.setattr(answering, "_ask", interrupted)
    done = run("calibrate", data, *more)
    assert done.code == 130 and "goes on with the rest" in done.err and not (tmp_path / "copy").exists()
    monkeypatch.setattr(answering, "_ask", ask)
    assert run("calibrate", data, *more).code == 0 and (tmp_path / "copy" / FILE).exists()
    assert part.read_bytes() == kept.read_bytes() and calls == [answering.TOGETHER]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{data}"], "calibrate needs --model"),
        (["/nowhere.json", "--model", "demo", "--out", "{new}"], "DATA is /nowhere.json, which does not exist"),
        (["{data}", "--model", "demo"], "--model is 'demo', no directory to write into; expected --out with it"),
        (["{data}", "--model", "own/er"], "--model is 'own/er', no directory"),
        (["{data}", "--model", "demo", "--out", "{there}"], "which exists; expected a new directory"),
        (
            ["{data}", "--model", "demo", "--out", "{new}", "--answers", "{there}"],
            "--answers is {there}, which is a directory",
        ),
        (["{data}", "--model", "demo", "--out", "{new}", "--images", "/nowhere"], "--images is /nowhere"),
        (["{few}", "--model", "demo", "--out", "{new}"], "expected at least 10 of each"),
        (["{bad}", "--model", "demo", "--out", "{new}"], "hold no accepted answer, expected one at least"),
    ],
)
def test_bad_input(run, arguments: list[str], message: str, data: Path, tmp_path: Path) -> None:
    records = json.loads(data.read_text())
    for name, chosen in (("few", records[:3]), ("bad", [{**records[0], "choices": ["x", "y"]}])):
        for record in chosen:
            record["image"] = str(data.parent / record["image"])
        (tmp_path / f"{name}.json").write_text(json.dumps(chosen))
    places = {"data": data, "new": tmp_path / "new", "there": tmp_path}
    places |= {name: tmp_path / f"{name}.json" for name in ("few", "bad")}
    done = run("calibrate", *(argument.format(**places) for argument in arguments))
    assert (done.code, done.out) == (2, "") and done.err.count("\n") == 1 and message.format(**places) in done.err, (
        done.err
    )
    assert not (tmp_path / "new").exists()
