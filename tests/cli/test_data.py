"""``tinygptv data check``: what it prints, what it finds, and how it ends."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import reader_samples as samples

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return samples.write(tmp_path / "mix.json", {"batch_size": 3, "data": samples.whole_mix(tmp_path / "data")})


def test_every_format_is_shown_with_a_sample(run, config: Path) -> None:
    done = run("data", "check", config, "--decode")
    assert done.code == 0
    for name in samples.ALL:
        assert f"{name} ({name}), " in done.out
    assert "records, 0 bad" in done.out and "(a prompt of the stage's) → The image shows a Dog (brown)." in done.out
    assert "[caption] " in done.out and "{<10><10><61><60>}" in done.out


def test_json(run, config: Path) -> None:
    done = run(
        "data", "check", config, "--json", "--stage", "4", "--only", "gqa", "--only", "refcoco", "--samples", "2"
    )
    facts = json.loads(done.out)
    assert facts["kind"] == "data" and set(facts["sets"]) == {"gqa", "refcoco"}
    assert facts["sets"]["gqa"]["share"] == pytest.approx(50 / 75)
    assert facts["sets"]["refcoco"]["samples"][0]["turns"][0]["answer"] == "{<10><10><61><60>}"


def test_bad_records_are_listed_by_reason_and_place(run, tmp_path: Path) -> None:
    sets = {"it": {**samples.vqav2(tmp_path, [[""], ["yes"], ["no"]]), "max_bad": 2}}
    (tmp_path / "coco" / "COCO_train2014_000000000010.jpg").unlink()
    config = samples.write(tmp_path / "mix.json", {"data": {"sets": sets}})
    done = run("data", "check", config)
    assert done.code == 0
    assert "1 records, 2 bad: 1 empty text, 1 picture missing" in done.out
    assert re.search(
        r"bad: .*annotations\.json: record 0: none of its|bad: .*annotations\.json: record 0: its answer", done.out
    )
    assert "it: left out: " in done.err


def test_a_set_over_its_limit_fails_and_the_others_are_reported(run, tmp_path: Path) -> None:
    sets = {"bad": samples.vqav2(tmp_path, [[""], ["yes"]]), "good": samples.gqa(tmp_path)}
    config = samples.write(tmp_path / "mix.json", {"data": {"sets": sets}})
    done = run("data", "check", config, "--json")
    assert done.code == 2
    facts = json.loads(done.out)["sets"]
    assert "too many bad records of 2" in facts["bad"]["error"] and facts["good"]["records"] == 1
    assert "1 of 2 data sets cannot be used: data set 'bad' has too many bad records" in done.err


def test_damage_behind_a_header_is_found_with_decode_alone(run, tmp_path: Path) -> None:
    sets = {"it": {**samples.vqav2(tmp_path), "max_bad": 1}}
    path = tmp_path / "coco" / "COCO_train2014_000000000010.jpg"
    path.write_bytes(samples.picture_bytes((400, 300))[:-500])
    config = samples.write(tmp_path / "mix.json", {"data": {"sets": sets}})
    assert "2 records, 0 bad" in run("data", "check", config).out
    assert "1 bad: 1 picture does not open" in run("data", "check", config, "--decode").out


def test_what_a_text_holds_does_not_drive_the_terminal(run, tmp_path: Path) -> None:
    sets = {"it": {**samples.vqav2(tmp_path, [["\x1b[2Jred"]]), "clean": False}}
    done = run("data", "check", samples.write(tmp_path / "mix.json", {"data": {"sets": sets}}))
    assert done.code == 0 and "\x1b" not in done.out and "\\x1b[2Jred" in done.out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "has no 'data'"),
        ([], "holds list"),
        ({"data": {"sets": {"it": {"format": "x"}}}}, "data.sets.it.format is 'x', expected one of webdataset"),
    ],
)
def test_configs_that_are_none(run, tmp_path: Path, content: object, said: str) -> None:
    done = run("data", "check", samples.write(tmp_path / "mix.json", content))
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1


def test_unknown_names_and_missing_files(run, config: Path, tmp_path: Path) -> None:
    assert "--only is 'nothing', expected one of webdataset" in run("data", "check", config, "--only", "nothing").err
    assert run("data", "check", tmp_path / "none.json").code == 2


def test_the_example_of_the_documentation_is_a_config(run, tmp_path: Path) -> None:
    """docs/datasets.md: every set of it reads, once its files are there."""
    text = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    shown = next(json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL) if '"sets"' in block)
    from tinygptv_fast.data.readers import FORMATS, read_sets
    from tinygptv_fast.data.readers.opening import ratios_of
    from tinygptv_fast.train.stages.config import load_stage

    sets = read_sets(shown["data"], tmp_path)
    stage = load_stage(4)
    assert {each.name for each in sets} == set(stage.ratios)
    assert ratios_of(sets, stage.ratios) == dict(stage.ratios)
    assert all(f"`{name}`" in text for name in FORMATS)
    done = run("data", "check", samples.write(tmp_path / "mix.json", shown), "--only", "gqa")
    assert done.code == 2 and "gqa/train_balanced_questions.json cannot be read: No such file" in done.err
