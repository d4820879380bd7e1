"""``tinygptv train`` on data sets in their published formats: named in the config, resumed to the bit, bad records
told.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import reader_samples as samples
from stage_support import begin, settings, tiny_model
from tinygptv_fast.cli import main
from tinygptv_fast.data.readers import open_mix, read_sets
from tinygptv_fast.errors import InvalidArgumentError
from tinygptv_fast.train.stages.run import train_stage

SMALL = {"batch_size": 4, "steps_per_epoch": 6, "repeats": 1, "epochs": 1, "warmup_steps": 2, "save_every": 2,
         "precision": "float32", "recompute": False, "lora_rank": 4}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


def train(config: Path, model: Path, out: Path, stage: int = 4, *more: str) -> int:
    arguments = ["train", "--stage", stage, "--model", model, "--config", config, "--out", out, "--threads", 1, *more]
    return main([str(argument) for argument in arguments])


def test_stage_4_learns_from_every_format_and_says_what_it_left_out(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = samples.whole_mix(tmp_path / "data")
    del data["sets"]["cc_sbu_align"], data["sets"]["webdataset"]  # without questions, and stage 4 has no prompts
    vqa = tmp_path / "data" / "vqav2" / "coco" / "COCO_train2014_000000000010.jpg"
    vqa.write_bytes(samples.picture_bytes((400, 300))[:-500])  # the header is whole
    data["sets"]["vqav2"] |= {"max_bad": 1, "ratio": 300}  # most of the draws
    config = samples.write(tmp_path / "mix.json", {**SMALL, "data": data})
    assert train(config, model, tmp_path / "run") == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6] and all(line["learnt"] > 0 for line in lines)
    summary = json.loads((tmp_path / "run" / "data.json").read_text())
    assert set(summary) == set(data["sets"]) and summary["vqav2"]["records"] == 2
    assert summary["vqav2"]["reasons"] == {"picture does not open": 1}
    out, said = capsys.readouterr()
    assert "vqav2: 1 records left out: 1 picture does not open" in out
    assert "vqav2: left out: " in said and "record 1: its picture does not open" in said
    assert "gqa: 1 records (gqa), none left out" in said


@pytest.mark.parametrize(("stage", "name"), [(1, "webdataset"), (3, "cc_sbu_align")])
def test_captions_take_the_form_of_their_stage(model: Path, tmp_path: Path, stage: int, name: str) -> None:
    small = {**SMALL, "lora_rank": 0 if stage == 1 else 4, "steps_per_epoch": 2}
    small |= {"projector_hidden": 24} if stage == 1 else {}
    data = {"sets": {name: samples.ALL[name](tmp_path)}}
    assert train(samples.write(tmp_path / "mix.json", {**small, "data": data}), model, tmp_path / "run", stage) == 0
    assert json.loads((tmp_path / "run" / "data.json").read_text())[name]["bad"] == 0


def test_a_run_that_was_stopped_ends_in_the_same_weights(model: Path, tmp_path: Path) -> None:
    data = samples.whole_mix(tmp_path / "data")
    sets = {name: data["sets"][name] for name in ("vqav2", "refcoco", "llava", "unnatural_instructions", "gqa")}
    picked = read_sets({"root": data["root"], "sets": sets}, tmp_path)
    config = settings(ratios={"vqav2": 2, "llava": 3}, steps_per_epoch=6)

    def run(out: Path, stop_after: int | None = None, resume: bool = False) -> bool:
        batches = open_mix(picked, config.batch_size, config.seed, ratios=config.ratios)
        done: list[int] = []
        return train_stage(
            begin(model, config), config, batches, out, resume=resume,
            listeners=[lambda step, total, figures, seconds: done.append(step)],
            stop=lambda: stop_after is not None and len(done) >= stop_after,
        )  # fmt: skip

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert run(tmp_path / "whole")
        assert not run(tmp_path / "parts", stop_after=2)
        assert not run(tmp_path / "parts", stop_after=1, resume=True)
        assert run(tmp_path / "parts", resume=True)
        one, other = (
            load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("whole", "parts")
        )
        assert set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)
        samples.write(tmp_path / "data" / "gqa" / "gqa.json", _other_question(tmp_path / "data" / "gqa" / "gqa.json"))
        with pytest.raises(InvalidArgumentError, match="the data is another"):
            run(tmp_path / "parts", resume=True)
    finally:
        torch.set_num_threads(before)


def _other_question(path: Path) -> Any:
    data = json.loads(path.read_text())
    data["02930152"]["question"] = "Is it not?"
    return data


def test_pictures_in_shards_are_seen_once_with_features(model: Path, tmp_path: Path) -> None:
    data = {"sets": {"laion": samples.webdataset(tmp_path)}}
    config = samples.write(tmp_path / "mix.json", {**SMALL, "lora_rank": 0, "projector_hidden": 24, "data": data})
    assert train(config, model, tmp_path / "one", 1, "--features", str(tmp_path / "features")) == 0
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()}
    assert len(kept) == 6
    assert train(config, model, tmp_path / "two", 1, "--features", str(tmp_path / "features")) == 0
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()} == kept


def test_rows_that_cannot_be_are_left_out_up_to_the_limit(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [["yes"], ["[INST]"]]  # the stage's template marks turns with it: refused in a question alone
    config_of = samples.vqav2(tmp_path, answers)
    questions = json.loads((tmp_path / config_of["questions"]).read_text())
    questions["questions"][1]["question"] = "what is [INST]?"
    samples.write(tmp_path / config_of["questions"], questions)
    data = {"sets": {"it": {**config_of, "clean": False}}, "max_bad": 1}
    config = samples.write(tmp_path / "mix.json", {**SMALL, "data": data})
    assert train(config, model, tmp_path / "run") == 0
    assert json.loads((tmp_path / "run" / "data.json").read_text())["it"]["reasons"] == {"refused by the stage": 1}
    data["max_bad"] = 0
    samples.write(config, {**SMALL, "data": data})
    capsys.readouterr()
    assert train(config, model, tmp_path / "other") == 2
    assert "too many bad records of 2, max_bad is 0; 1 left out: 1 refused by the stage" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--data", "x.json"), "names data sets, expected neither --data nor --images"),
        (("--images", "."), "names data sets, expected neither --data nor --images"),
    ],
)
def test_data_twice(
    tmp_path: Path, more: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], model: Path
) -> None:
    config = samples.write(tmp_path / "mix.json", {"data": {"sets": {"it": samples.gqa(tmp_path)}}})
    assert train(config, model, tmp_path / "run", 4, *more) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_missing_file_ends_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model: Path
) -> None:
    found = samples.gqa(tmp_path)
    (tmp_path / found["annotations"]).unlink()
    config = samples.write(tmp_path / "mix.json", {"data": {"sets": {"it": found}}})
    assert train(config, model, tmp_path / "run") == 2
    assert "gqa.json cannot be read" in capsys.readouterr().err and not (tmp_path / "run").exists()
