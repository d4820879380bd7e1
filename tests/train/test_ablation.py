"""The ablation at its smallest size: every variant lacks what it says, runs end to end, stops and continues,
and a stage that breaks down is a row of the table.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tinygptv_fast.errors import InvalidArgumentError
from tinygptv_fast.reference import TinyGPTVReference
from tinygptv_fast.train.ablation import command, runs
from tinygptv_fast.train.ablation.gradients import FILE
from tinygptv_fast.train.ablation.looking import Asking, Eyes, draw_rows
from tinygptv_fast.train.ablation.protocol import TINY, VARIANTS, AblationRecipe
from tinygptv_fast.train.ablation.report import table
from tinygptv_fast.train.demo.loop import Session
from tinygptv_fast.train.demo.recipe import STAGES
from tinygptv_fast.train.stages.report import read_log
from tinygptv_fast.train.stages.trainable import is_trained

pytestmark = pytest.mark.timeout(1800)  # twenty stages of three steps; minutes on a busy machine


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, stopped by its clock after each piece of work before."""
    out = tmp_path_factory.mktemp("ablation") / "run"
    arguments = ["--tiny", "--threads", "1", "--out", str(out)]
    assert command.main([*arguments, "--minutes", "0.0001"]) == 3
    assert not (out / "ablation.json").exists()
    assert command.main(arguments) == 0
    return out


def test_the_report_has_every_variant_and_stage(done: Path) -> None:
    found = json.loads((done / "ablation.json").read_text(encoding="utf-8"))
    assert set(found["records"]) == set(VARIANTS) and found["recipe"]["text_layers"] == 2
    for stages in found["records"].values():
        assert list(stages) == list(STAGES)
        for record in stages.values():
            assert record["stopped"] is None and record["steps"] == 3
            assert 0 < record["held_out"] < 20 and record["last_loss"] > 0
            assert len(record["first_states"]) == len(record["last_states"]) == len(record["last_weights"]) == 2
            assert min(record["last_states"]) > 0
    text = (done / "ablation.md").read_text(encoding="utf-8")
    assert text.count("\n| with") == 8 and text.count("\n| full") == 2 and "2.620 / 2.343 / 1.125 / 1.330" in text
    assert (done / "ablation.png").read_bytes().startswith(b"\x89PNG")
    for phase in STAGES:
        lines = read_log(done / "no_qk_norm" / phase / FILE)
        assert [line["step"] for line in lines] == [1, 2, 3]
    lora = [found["records"][name]["s2"]["last_weights"] for name in ("full", "no_lora")]
    assert lora[0] != lora[1]
    assert found["records"]["full"]["s1"]["held_out"] == found["records"]["no_lora"]["s1"]["held_out"]  # S1 has none


def test_what_has_ended_is_left_alone_and_other_settings_are_refused(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = done / "full" / "s1" / "weights.pt"
    before = weights.stat().st_mtime_ns
    assert command.main(["--tiny", "--threads", "1", "--out", str(done)]) == 0
    assert weights.stat().st_mtime_ns == before and "| full |" in capsys.readouterr().out
    assert command.main(["--tiny", "--threads", "1", "--out", str(done), "--rate", "2"]) == 2
    assert "holds a run with other settings (s1, s2, s3, s4)" in capsys.readouterr().err


def test_variants_lack_what_they_say(done: Path) -> None:
    session = Session(done, TINY, torch.device("cpu"), Console(quiet=True))
    eyes = Eyes.open()
    names = {}
    for name, variant in VARIANTS.items():
        config = runs.config_of(TINY, variant, "s2")
        start = runs._start(session, TINY, eyes, name, "s2", config)
        names[name] = {n for n, _ in start.model.named_parameters() if is_trained(n, config)}
        learnt = session.weights(f"{name}/s1")
        state = start.model.state_dict()
        assert learnt and all(torch.equal(state[n], tensor) for n, tensor in learnt.items())
    without = {name: names["full"] - trained for name, trained in names.items()}
    assert without["full"] == set()
    assert without["no_lora"] == {n for n in names["full"] if "lora" in n}
    assert without["no_input_norm"] == {f"text.layers.{i}.norm.weight" for i in range(2)}
    assert without["no_rms_norm"] == {f"text.layers.{i}.attn.post_norm.weight" for i in range(2)}
    assert without["no_qk_norm"] == {f"text.layers.{i}.attn.{x}_norm.weight" for i in range(2) for x in "qk"}


def test_held_out_pictures_are_never_learnt_from(done: Path) -> None:
    session = Session(done, TINY, torch.device("cpu"), Console(quiet=True))
    rows = session.weights("rows")
    asking = Asking(TINY, "s2", rows, "eyes")
    seen = {example.images[0].data_ptr() for step in range(20) for example in asking.batch(step)}
    held = {example.images[0].data_ptr() for example in asking.held_out()}
    assert seen and held and not seen & held
    first, again = asking.batch(3), asking.batch(3)
    assert [e.turns for e in first] == [e.turns for e in again]
    assert [e.turns for e in first] != [e.turns for e in asking.batch(4)]


def test_a_stage_that_breaks_down_is_a_result(tmp_path: Path) -> None:
    session = Session(tmp_path, TINY, torch.device("cpu"), Console(quiet=True))
    eyes = Eyes.open()
    draw_rows(session, TINY, eyes)
    base = TinyGPTVReference(TINY.model_config(TINY.small_size)).text.state_dict()
    base["layers.1.mlp.fc1.weight"][0, 0] = float("nan")
    session.hand_on("text", {"text": base})
    session.finish("text", {})
    for phase in STAGES[:2]:
        runs.run_stage(session, TINY, eyes, "no_qk_norm", phase)
    record, later = session.done("no_qk_norm/s1"), session.done("no_qk_norm/s2")
    assert record is not None and later is not None
    assert record["stopped"].startswith("step 0: the loss is nan: weight text.layers.1.mlp.fc1.weight holds NaN")
    assert record["held_out"] is None and later["stopped"] == runs.EARLIER
    fine = {"stopped": None, "steps": 3, "held_out": 2.5, "last_states": [0.5, 1.0]}
    records = {name: dict.fromkeys(STAGES, fine) for name in VARIANTS}
    records["no_qk_norm"] = {**records["no_qk_norm"], "s1": {**record, "steps": 7}, "s2": later}
    assert "| without q/k norm | stopped at step 7 | – | 2.500 | 2.500 | vanishes" in table(records)


def test_bad_arguments_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["--rate", "0"], "--rate is 0, expected more than 0"),
        (["--threads", "0"], "--threads is 0, expected an integer >= 1"),
        (["--minutes", "0"], "--minutes is 0, expected more than 0"),
    ):
        assert command.main([*arguments, "--out", str(tmp_path / "x")]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    (tmp_path / "recipe.json").write_text("[]", encoding="utf-8")
    assert command.main(["--tiny", "--out", str(tmp_path)]) == 2
    assert "holds a run with other settings" in capsys.readouterr().err
    with pytest.raises(InvalidArgumentError, match="precision is 'float16'"):
        dataclasses.replace(AblationRecipe(), precision="float16")
