"""Runs: they learn, stop and continue to the bit, survive kill -9, Ctrl-C, full disks and NaN, and refuse what is not
theirs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stage_support import begin, data, settings, tiny_model
from tinygptv_fast.errors import CheckpointError, ConfigError, InvalidArgumentError, TrainingError, UnsupportedError
from tinygptv_fast.train import saving
from tinygptv_fast.train.stages import report, state
from tinygptv_fast.train.stages.config import StageConfig
from tinygptv_fast.train.stages.examples import Example, Mixture, Turn
from tinygptv_fast.train.stages.run import Trainer, train_stage
from tinygptv_fast.train.stages.trainable import freeze

Weights = dict[str, torch.Tensor]
# What a killed process runs: the same as ``finish`` below, slowly enough to be killed at any step.
_CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from stage_support import begin, data, settings
from tinygptv_fast.train.stages.run import train_stage
config = settings()
folder = Path({folder!r})
def tell(done, total, figures, seconds):
    print(done, flush=True)
    time.sleep({pause})
train_stage(begin(Path({model!r}), config), config, data(folder, config), folder / "run", resume=True, listeners=[tell])
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def finish(model: Path, folder: Path, config: StageConfig, **how: Any) -> Weights:
    start = begin(model, config)
    assert train_stage(start, config, data(folder, config), folder / "run", **how)
    return {name: p.detach().clone() for name, p in start.model.named_parameters() if p.requires_grad}


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return finish(model, tmp_path_factory.mktemp("whole"), settings())
    finally:
        torch.set_num_threads(before)


def same(a: Weights, b: Weights) -> bool:
    return set(a) == set(b) and all(torch.equal(value, b[name]) for name, value in a.items())


def child(model: Path, folder: Path, pause: float = 0.0) -> subprocess.Popen[str]:
    tests = Path(__file__).resolve().parents[1]
    code = _CHILD.format(tests=str(tests), folder=str(folder), model=str(model), pause=pause)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_until(process: subprocess.Popen[str], step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == step:
            return
    raise AssertionError(process.stderr.read() if process.stderr else "ended")


def trained_state(folder: Path) -> Weights:
    return torch.load(folder / "run" / "state.pt", weights_only=True)["trained"]


def test_it_learns_and_leaves_log_plot_and_adapter(model: Path, tmp_path: Path) -> None:
    config = settings(steps_per_epoch=30)
    finish(model, tmp_path, config)
    lines = report.read_log(tmp_path / "run" / report.LOG_FILE)
    assert [line["step"] for line in lines] == list(range(1, 31))
    assert sum(line["loss"] for line in lines[-5:]) < 0.8 * sum(line["loss"] for line in lines[:5])
    assert all(line["lr"] == config.lr(line["step"] - 1) and line["learnt"] > 0 for line in lines)
    assert {"adapter", "state.pt", "log.jsonl", "loss.png"} == {path.name for path in (tmp_path / "run").iterdir()}


@pytest.mark.parametrize(
    "changes", [{}, {"precision": "bfloat16", "recompute": True, "accumulation": 2}, {"qformer": True}]
)
def test_stopped_and_continued_is_the_same_run(changes: dict[str, Any], model: Path, tmp_path: Path) -> None:
    config = settings(steps_per_epoch=5, save_every=100, lora_dropout=0.3, **changes)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    expected = finish(model, tmp_path / "a", config)
    for _ in range(4):  # stops after every step
        start = begin(model, config)
        torch.manual_seed(random.randrange(1 << 30))  # what the caller does with its random numbers is no matter
        assert not train_stage(
            start, config, data(tmp_path / "b", config), tmp_path / "b" / "run", resume=True, stop=lambda: True
        )
    assert same(finish(model, tmp_path / "b", config, resume=True), expected)
    assert [line["step"] for line in report.read_log(tmp_path / "b" / "run" / report.LOG_FILE)] == [1, 2, 3, 4, 5]


def test_kill_9_at_a_random_step_then_resume(model: Path, whole: Weights, tmp_path: Path) -> None:
    step = random.randrange(1, 8)
    killed = child(model, tmp_path, pause=0.2)
    read_until(killed, step)
    time.sleep(random.random() * 0.2)
    killed.kill()
    killed.wait()
    assert same(finish(model, tmp_path, settings(), resume=True), whole), f"killed after step {step}"


def test_ctrl_c_saves_and_a_second_one_quits_at_once(model: Path, whole: Weights, tmp_path: Path) -> None:
    stopped = child(model, tmp_path, pause=0.5)
    read_until(stopped, 4)
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait(timeout=30) != 0
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] in (4, 5)
    twice = child(model, tmp_path, pause=30)
    assert twice.stdout is not None and int(twice.stdout.readline()) in (5, 6)
    for _ in range(2):
        twice.send_signal(signal.SIGINT)
        time.sleep(0.3)
    began = time.monotonic()
    assert twice.wait(timeout=10) != 0
    assert time.monotonic() - began < 5  # not after the 30 s of the listener
    assert same(finish(model, tmp_path, settings(), resume=True), whole)


def test_full_disk_is_one_clear_error_and_the_last_state_is_intact(model: Path, whole: Weights, tmp_path: Path) -> None:
    config = settings()
    start = begin(model, config)
    trainer = Trainer(start, config, data(tmp_path, config), tmp_path / "run")
    assert not trainer.run(stop=lambda: trainer.progress.step == 3)
    before = (tmp_path / "run" / "state.pt").read_bytes()
    code = (
        "import resource, signal, sys, torch; from pathlib import Path\n"
        "from tinygptv_fast.errors import CheckpointError\n"
        "from tinygptv_fast.train.saving import save_atomically\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: save_atomically({'x': torch.zeros(100000)}, Path(sys.argv[1]))\n"
        "except CheckpointError as error: print(error)\n"
    )
    state = tmp_path / "run" / "state.pt"
    done = subprocess.run(
        [sys.executable, "-c", code, str(state)], capture_output=True, text=True, timeout=60, check=True
    )
    assert "cannot save" in done.stdout and "the last good state there is intact" in done.stdout
    assert state.read_bytes() == before
    assert not list((tmp_path / "run").glob(".*"))
    assert same(finish(model, tmp_path, config, resume=True), whole)


def test_a_damaged_write_is_noticed_before_it_replaces_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.pt"
    saving.save_atomically({"step": 1}, path)
    real = saving.os.fsync

    def spoil(handle: int) -> None:
        real(handle)
        os.pwrite(handle, b"\xff" * 64, 200)

    monkeypatch.setattr(saving.os, "fsync", spoil)
    with pytest.raises(CheckpointError, match="the last good state there is intact"):
        saving.save_atomically({"step": 2, "x": torch.arange(1000)}, path)
    assert saving.load_state_file(path) == {"step": 1} and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"config": {"init_lr": 5e-4}}, r"config.init_lr was 0.001, is 0.0005"),
        ({"data": "another"}, "the data is another"),
        ({"model": "another"}, "the model it starts from is another"),
        ({"code": "another"}, "the training code is another; --allow-other-code continues"),
    ],
    ids=["config", "data", "model", "code"],
)
def test_a_run_of_something_else_is_refused(
    what: dict[str, Any], words: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(steps_per_epoch=2)
    finish(model, tmp_path, config)
    start, batches = begin(model, config), data(tmp_path, config)
    if "config" in what:
        config = settings(steps_per_epoch=2, **what["config"])
    if "data" in what:
        batches = dataclasses.replace(batches, digest="other")
    if "model" in what:
        start = dataclasses.replace(start, identity="other")
    if "code" in what:
        monkeypatch.setattr("tinygptv_fast.train.stages.state.code_digest", lambda: "other")
    with pytest.raises(InvalidArgumentError, match=words):
        train_stage(start, config, batches, tmp_path / "run", resume=True)
    if "code" in what:
        assert train_stage(start, config, batches, tmp_path / "run", resume=True, allow_other_code=True)


def test_a_setting_that_is_newer_than_the_run_does_not_stop_it() -> None:
    now = state.fingerprint(settings(), "model", "data")
    saved = json.loads(json.dumps(now))
    del saved["config"]["frozen"]
    assert state.differences(saved, now, allow_other_code=False) == []
    other = state.fingerprint(settings(frozen=["text.layers.0.*"]), "model", "data")
    assert state.differences(saved, other, allow_other_code=True) == ["config.frozen was [], is ['text.layers.0.*']"]


def test_frozen_patterns_keep_tensors_out_and_must_match_something(model: Path) -> None:
    start = begin(model, settings())
    every = freeze(start.model, settings())
    left = freeze(start.model, settings(frozen=["text.layers.*.norm.weight", "projector.*"]))
    gone = {f"text.layers.{i}.norm.weight" for i in range(3)} | {n for n in every if n.startswith("projector.")}
    assert set(every) - set(left) == gone
    with pytest.raises(ConfigError, match=r"stage\.frozen has 'text\.layer\.\*', which no parameter is called"):
        freeze(start.model, settings(frozen=["text.layer.*"]))
    with pytest.raises(ConfigError, match=r"stage\.frozen is \(3,\), expected a list of texts"):
        settings(frozen=[3])


def test_a_run_is_not_overwritten_without_resume(model: Path, tmp_path: Path) -> None:
    config = settings(steps_per_epoch=1)
    finish(model, tmp_path, config)
    with pytest.raises(InvalidArgumentError, match="--resume continues it"):
        finish(model, tmp_path, config)
    (tmp_path / "run" / "state.pt").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="is not the state of a training run"):
        finish(model, tmp_path, config, resume=True)


def test_nan_and_exploding_gradients_name_the_first_bad_tensor(model: Path, tmp_path: Path) -> None:
    config = settings()
    for spoil, words in (
        ("text.layers.1.mlp.fc1.weight", "weight text.layers.1.mlp.fc1.weight holds NaN"),
        ("text.layers.1.attn.qkv.bias", "the output of text.layers.1.attn.out is the first that is not finite"),
    ):
        start = begin(model, config)
        parameter = dict(start.model.named_parameters())[spoil]
        bad = parameter.detach().clone()
        bad.view(-1)[0] = float("nan") if spoil.endswith("weight") else 3e38
        if not spoil.endswith("weight"):
            bad.fill_(3e38)  # finite itself: its output is the first that is not
        parameter.data = bad
        with pytest.raises(TrainingError, match=words):
            train_stage(start, config, data(tmp_path, config), tmp_path / spoil)
    small = settings(gradient_limit=1e-9)
    start = begin(model, small)
    before = {name: p.detach().clone() for name, p in start.model.named_parameters()}
    with pytest.raises(TrainingError, match=r"step 0: the gradient's norm .* the largest is of (text|projector)\."):
        train_stage(start, small, data(tmp_path, small), tmp_path / "small")
    assert all(torch.equal(p, before[name]) for name, p in start.model.named_parameters())


def test_nan_in_a_gradient_alone_is_named(model: Path, tmp_path: Path) -> None:
    config = settings()
    start = begin(model, config)
    trainer = Trainer(start, config, data(tmp_path, config), tmp_path / "run")
    trainer.trained["text.layers.1.norm.weight"].register_hook(lambda grad: grad * float("nan"))
    with pytest.raises(TrainingError, match=r"the gradient of text\.layers\.1\.norm\.weight holds NaN"):
        trainer.run()


def test_repeats_start_with_fresh_moments(model: Path, tmp_path: Path) -> None:
    config = settings(steps_per_epoch=2, repeats=2)
    start = begin(model, config)
    trainer = Trainer(start, config, data(tmp_path, config), tmp_path / "run")
    steps: list[float] = []

    def tell(done: int, total: int, figures: Any, seconds: float) -> None:
        steps.append(float(next(iter(trainer.optimizer.state.values()))["step"]))

    trainer.run([tell])
    assert steps == [1, 2, 1, 2]


def test_tensorboard_has_the_curves(model: Path, tmp_path: Path) -> None:
    config = settings(steps_per_epoch=4)
    assert train_stage(begin(model, config), config, data(tmp_path, config), tmp_path / "run", tensorboard=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert set(events.Tags()["scalars"]) == {"loss", "gradient", "lr", "tokens per second"}
    for name in ("loss", "lr"):
        shown = events.Scalars(name)
        assert [point.step for point in shown] == [1, 2, 3, 4]
        assert [point.value for point in shown] == pytest.approx([line[name] for line in lines], rel=1e-4)


def test_tensorboard_is_asked_for_by_name(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    config = settings()
    with pytest.raises(UnsupportedError, match=r"pip install tinygptv_fast\[train\]"):
        train_stage(begin(model, config), config, data(tmp_path, config), tmp_path / "run", tensorboard=True)


def test_mixture_is_a_function_of_the_step_and_keeps_its_ratios() -> None:
    sets = {name: [Example((Turn("q", f"{name}{i}"),)) for i in range(size)] for name, size in (("a", 7), ("b", 30))}
    mixture = Mixture(sets, 10, seed=3, digest="", weights={"a": 3.0, "b": 1.0})
    drawn = [example.turns[0].answer for step in range(200) for example in mixture.batch(step)]
    assert [example.turns[0].answer for example in mixture.batch(150)] == drawn[1500:1510]
    assert sum(answer.startswith("a") for answer in drawn[:1000]) == sum(a.startswith("a") for a in drawn[1000:]) == 750
    of_a = [answer for answer in drawn if answer.startswith("a")]
    assert all(sorted(of_a[i : i + 7]) == sorted({f"a{k}" for k in range(7)}) for i in range(0, 1400, 7))
    other = dataclasses.replace(mixture, seed=4)
    assert [e.turns[0].answer for e in other.batch(0)] != drawn[:10]
    with pytest.raises(InvalidArgumentError, match="have no examples"):
        Mixture({"a": []}, 1, 0, "")


def test_log_lines_of_undone_steps_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"step": i, "loss": 1.0}) + "\n" for i in range(1, 6)) + '{"step": 6, "lo')
    report.JsonLines(path, 3).close()
    assert [line["step"] for line in report.read_log(path)] == [1, 2, 3]


def test_a_missing_matplotlib_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [{"step": step, "loss": 1.0, "lr": 1e-4} for step in (1, 2)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report.plot_loss(tmp_path, "a run")
    assert "matplotlib" in caplog.text and not (tmp_path / "loss.png").exists()
