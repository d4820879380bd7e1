"""The trainer: it learns, it stops and continues to the bit, it writes a directory that the package opens."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from tinygptv_fast.checkpoint.directory import open_directory
from tinygptv_fast.errors import CheckpointError, InvalidArgumentError
from tinygptv_fast.train import tiny
from tinygptv_fast.train.loop import train
from tinygptv_fast.train.recipe import PHASES, Phase, Recipe
from tinygptv_fast.train.ship import LOG_FILE
from tinygptv_fast.train.state import Run, load_run, new_run, save_run

SMALL = Recipe(
    see=Phase(steps=12, pictures=8, questions=0, muon_lr=0.02, adam_lr=2e-3),
    read=Phase(steps=12, pictures=4, questions=4, muon_lr=0.02, adam_lr=3e-3),
    join=Phase(steps=4, pictures=4, questions=4, muon_lr=0.004, adam_lr=6e-4),
    vision_width=32,
    vision_layers=1,
    vision_mlp=32,
    qformer_layers=1,
    qformer_mlp=32,
    text_layers=1,
    text_heads=1,
    text_mlp=32,
)


class Stopped(Exception):
    """Stands for Ctrl-C."""


def run_to_end(run: Run, stop_at: tuple[str, int] | None = None, state: Path | None = None) -> list[tuple[str, float]]:
    losses: list[tuple[str, float]] = []

    def report(now: Run, figures: dict[str, float]) -> None:
        losses.append((now.phase, figures["loss"]))
        if stop_at == (now.phase, now.step):
            raise Stopped

    train(run, report, lambda now: save_run(now, state) if state else None)
    return losses


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {**run.model.state_dict(), **{f"heads.{k}": v for k, v in run.heads.state_dict().items()}}


@pytest.fixture(scope="module")
def whole() -> tuple[Run, list[tuple[str, float]]]:
    run = new_run(SMALL)
    return run, run_to_end(run)


def test_loss_falls_in_both_phases(whole: tuple[Run, list[tuple[str, float]]]) -> None:
    for phase in ("see", "read"):
        losses = [loss for name, loss in whole[1] if name == phase]
        assert len(losses) == 12
        assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


@pytest.mark.parametrize("stop_at", [("see", 5), ("see", 12), ("read", 7), ("join", 2)])
def test_resume_is_identical(
    whole: tuple[Run, list[tuple[str, float]]], stop_at: tuple[str, int], tmp_path: Path
) -> None:
    state = tmp_path / "run.pt"
    with pytest.raises(Stopped):
        run_to_end(new_run(SMALL), stop_at, state)
    continued = load_run(state)
    assert (continued.phase, continued.step) == stop_at
    losses = run_to_end(continued)
    assert losses == whole[1][-len(losses) :]
    expected = weights(whole[0])
    assert all(torch.equal(value, expected[name]) for name, value in weights(continued).items())


def test_phases_train_their_own_parameters_only() -> None:
    run = new_run(SMALL)
    before = {name: value.clone() for name, value in weights(run).items()}
    run.enter("read")
    run_to_end(
        dataclasses.replace(run, recipe=dataclasses.replace(SMALL, join=dataclasses.replace(SMALL.join, steps=0)))
    )
    changed = {name.split(".")[0] for name, value in weights(run).items() if not torch.equal(value, before[name])}
    assert changed == {"projector", "text"}


def test_another_seed_is_another_run() -> None:
    first, second = new_run(SMALL), new_run(dataclasses.replace(SMALL, seed=1))
    assert not torch.equal(first.model.text.embed.weight, second.model.text.embed.weight)


def test_state_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    path.write_bytes(b"not a state")
    with pytest.raises(CheckpointError, match=r"run\.pt"):
        load_run(path)
    assert list(tmp_path.iterdir()) == [path]


def test_recipe_round_trip_and_scaling() -> None:
    recipe = Recipe(seed=3)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert [recipe.scaled(0.1).phase(n).steps for n in PHASES] == [round(recipe.phase(n).steps * 0.1) for n in PHASES]
    with pytest.raises(InvalidArgumentError, match="phase is 'sleep'"):
        recipe.phase("sleep")


def test_rate_rises_holds_and_falls() -> None:
    phase = Phase(steps=100, pictures=1, questions=1, muon_lr=1.0, adam_lr=1.0, warmup=10, decay=0.5)
    rates = [phase.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[20] == 1.0 and rates[99] == pytest.approx(0.02)
    assert all(0 < rate <= 1 for rate in rates)


@pytest.mark.parametrize("arguments", [["--minutes", "0"], ["--threads", "0"], ["--questions", "0"], ["--seed", "-1"]])
def test_bad_arguments_exit_2(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.main(["--out", str(tmp_path / "demo"), *arguments]) == 2
    assert f"{arguments[0]} is" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_existing_output_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.main(["--out", str(tmp_path)]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_command_writes_a_model_and_refuses_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tiny, "Recipe", lambda: SMALL)
    out = tmp_path / "demo"
    assert tiny.main(["--out", str(out), "--questions", "2", "--threads", "1"]) == 0
    directory = open_directory(out)
    assert directory.config.quantization.text == "int4" and directory.config.quantization.vision == "int8"
    assert directory.quality.agreement is not None
    log = json.loads((out / LOG_FILE).read_text())
    assert {"float32", "written", "written_grey_pictures", "written_held_out_pairs", "agreement"} == set(log["figures"])
    assert [entry["phase"] for entry in log["log"]] == list(PHASES)
    assert log["figures"]["written"]["questions"] == 22
    assert tiny.main(["--out", str(out), "--questions", "2", "--seed", "9", "--overwrite"]) == 2
    assert "other settings" in capsys.readouterr().err
