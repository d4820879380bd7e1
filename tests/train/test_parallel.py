"""Runs of two processes (gloo, on this machine): the curve of one process under DDP and FSDP, any number of processes
after any other, and whatever happens to one ends both with a message.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from stage_support import PARALLEL, begin, mixed_data, mixed_files, parallel_settings, tiny_model, write_json
from tinygptv_fast.checkpoint.adapter import read_adapter
from tinygptv_fast.checkpoint.directory import open_directory
from tinygptv_fast.cli import main
from tinygptv_fast.env import torchrun_place
from tinygptv_fast.errors import ConfigError, InvalidArgumentError
from tinygptv_fast.train.stages.report import read_log
from tinygptv_fast.train.stages.run import train_stage
from tinygptv_fast.train.stages.step import step_randomness
from tinygptv_fast.train.stages.world import World, _joined, open_world

TESTS = Path(__file__).resolve().parents[1]
FAULTS = ("bad_weight", "bad_output", "bad_gradient", "bad_picture", "refusals")
pytestmark = pytest.mark.timeout(1800)  # three processes start torch; a busy machine takes minutes for it


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs of the module live, with their data."""
    place = tmp_path_factory.mktemp("runs")
    mixed_files(place)
    return place


@pytest.fixture(scope="module")
def alone(model: Path, folder: Path) -> list[dict[str, Any]]:
    """The log of one process."""
    config = parallel_settings()
    assert train_stage(begin(model, config), config, mixed_data(folder, config), folder / "alone")
    return read_log(folder / "alone" / "log.jsonl")


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS), **more}


def two_processes(deeds: list[str], model: Path, folder: Path) -> list[dict[str, Any]]:
    """What both said; neither may fail."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in ("0", "1"):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        where = environment(**place, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        command = [sys.executable, str(TESTS / "parallel_child.py"), ",".join(deeds), str(model), str(folder)]
        started.append(subprocess.Popen(command, env=where, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    try:
        ended = [process.communicate(timeout=1500) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], ended
    return [json.loads(line) for out, _ in ended for line in out.splitlines()]


def assert_same_curve(log: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [line["step"] for line in log] == [line["step"] for line in expected]
    for line, other in zip(log, expected, strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-4), line["step"]
        assert line["gradient"] == pytest.approx(other["gradient"], rel=2e-3), line["step"]  # four digits are kept
        assert [line[name] for name in ("lr", "tokens", "learnt")] == [other[n] for n in ("lr", "tokens", "learnt")]


# --- the same run -----------------------------------------------------------------------------------------------------
def test_two_processes_learn_what_one_does(model: Path, folder: Path, alone: list[dict[str, Any]]) -> None:
    two_processes(["curves:ddp", "curves:fsdp"], model, folder)
    directory = open_directory(model)
    expected = read_adapter(folder / "alone" / "adapter", directory.config)
    assert alone[-1]["loss"] < 0.9 * alone[0]["loss"]
    for kind in ("ddp", "fsdp"):
        assert_same_curve(read_log(folder / kind / "log.jsonl"), alone)
        assert {path.name for path in (folder / kind).iterdir()} == {"adapter", "log.jsonl", "loss.png", "state.pt"}
        got = read_adapter(folder / kind / "adapter", directory.config)
        assert set(got.replaced) == set(expected.replaced) and set(got.lora) == set(expected.lora)
        for name, tensor in expected.replaced.items():
            torch.testing.assert_close(got.replaced[name], tensor, rtol=1e-3, atol=1e-4)
        state = torch.load(folder / kind / "state.pt", weights_only=True)  # whole tensors, readable without a group
        one = torch.load(folder / "alone" / "state.pt", weights_only=True)
        assert {n: t.shape for n, t in state["trained"].items()} == {n: t.shape for n, t in one["trained"].items()}


def test_processes_have_dropout_of_their_own() -> None:
    def drawn(rank: int, step: int = 3) -> list[float]:
        with step_randomness(42, step, rank):
            return torch.rand(4).tolist()

    assert drawn(0) == drawn(0) and len({tuple(drawn(rank, step)) for rank in range(3) for step in range(3)}) == 9


# --- torchrun: killed, interrupted, resumed with another number of processes ------------------------------------------
def arguments(model: Path, folder: Path, out: Path) -> list[str]:
    """Of ``tinygptv``, to begin or continue the run in ``out``."""
    config = write_json(folder / "config.json", PARALLEL)
    first, second = mixed_files(folder)
    words = ["train", "--stage", 3, "--model", model, "--data", first, "--data", second, "--config", config]
    return [str(word) for word in [*words, "--out", out, "--resume", "--threads", 1]]


def torchrun(kind: str, model: Path, folder: Path, out: Path) -> subprocess.Popen[str]:
    """``tinygptv train`` in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tinygptv_fast", *arguments(model, folder, out), "--parallel", kind]
    # A session of its own: Ctrl-C reaches torchrun and both processes, as from a terminal.
    return subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_step(process: subprocess.Popen[str], out: Path, step: int) -> None:
    while not any(line["step"] >= step for line in read_log(out / "log.jsonl")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def workers(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of the two that torchrun has started."""
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    found = [int(word) for word in text.split()]
    return [pid for pid in found if b"tinygptv_fast" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_killed_interrupted_and_finished_by_one(model: Path, folder: Path, alone: list[dict[str, Any]]) -> None:
    out = folder / "torn"
    # One process of two dies: both end, and say so.
    process = torchrun("ddp", model, folder, out)
    wait_for_step(process, out, 12)
    os.kill(workers(process)[1], signal.SIGKILL)
    _, said = process.communicate(timeout=600)
    assert process.returncode != 0 and "another process of this run has ended" in said
    assert torch.load(out / "state.pt", weights_only=True)["step"] in (10, 20)
    # Resumed under FSDP from what DDP left; Ctrl-C saves once and ends both.
    process = torchrun("fsdp", model, folder, out)
    wait_for_step(process, out, 22)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=600)
    assert process.returncode != 0 and said.count("--resume continues") == 1 and "continue from step" in said
    assert torch.load(out / "state.pt", weights_only=True)["step"] >= 22
    assert not list(out.glob(".*"))
    # One process finishes what two began.
    assert main(arguments(model, folder, out)) == 0
    assert_same_curve(read_log(out / "log.jsonl"), alone)


# --- what goes wrong in one process -----------------------------------------------------------------------------------
def test_a_fault_of_one_process_ends_both_and_is_named(model: Path, folder: Path) -> None:
    deeds = [f"{name}:{kind}" for kind in ("ddp", "fsdp") for name in FAULTS]
    said = two_processes(deeds, model, folder)
    texts = {(line["rank"], line["what"]): line["text"] for line in said}
    expected = {
        "weight": "TrainingError: step 0: the loss is nan: weight text.layers.1.mlp.fc1.weight holds NaN or infinity "
        "(process 1 of 2)",
        "output": "TrainingError: step 0: the loss is nan: the output of text.layers.2.norm is the first that is not "
        "finite (process 1 of 2)",
        "gradient": "TrainingError: step 0: the gradient of text.layers.0",
        "picture": "ImageError: process 1 of 2: ",
        "small": "InvalidArgumentError: batch_size is 3 in accumulation=2 parts, expected at least 4",
        "data": "InvalidArgumentError: process 1 works on something else: the data is another",
    }
    assert len(said) == 2 * 2 * len(expected)
    for kind in ("ddp", "fsdp"):
        for what, text in expected.items():
            assert texts[0, f"{kind} {what}"].startswith(text), texts
            assert texts[1, f"{kind} {what}"].startswith("ReportedByFirst: "), texts


def test_the_first_of_several_faults_is_raised() -> None:
    error = _joined([None, ("ImageError", "it is broken"), ("ConfigError", "no such key")])
    assert type(error).__name__ == "ImageError" and str(error) == "process 1 of 3: it is broken"
    assert str(_joined([("ConfigError", "x"), ("ConfigError", "x")])) == "x"  # nothing of one process alone
    assert type(_joined([("KeyError", "x"), None])).__name__ == "TrainingError"


# --- the command line and the environment -----------------------------------------------------------------------------
def test_parallel_needs_torchrun_and_torchrun_needs_parallel(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    data = str(mixed_files(folder)[0])
    words = ["train", "--stage", "3", "--model", str(model), "--data", data, "--out", str(folder / "no")]
    assert main([*words, "--parallel", "ddp"]) == 2
    assert "expected: torchrun --nproc-per-node 2 -m tinygptv_fast train --parallel ddp" in capsys.readouterr().err
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert main(words) == 2
    assert "process 1 of 2 under torchrun and --parallel is not given" in capsys.readouterr().err
    assert not (folder / "no").exists()
    with pytest.raises(InvalidArgumentError, match="parallel is 'tp'"), open_world("tp"):  # type: ignore[arg-type]
        pass


def test_place_is_read_whole_or_refused() -> None:
    assert torchrun_place({}) is None
    good = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    place = torchrun_place(good)
    assert place is not None and (place.rank, place.size, place.local_rank, place.local_size) == (3, 4, 1, 2)
    for name, value in (("RANK", "4"), ("RANK", "-1"), ("WORLD_SIZE", ""), ("LOCAL_RANK", "x"), ("WORLD_SIZE", "0")):
        with pytest.raises(ConfigError, match=f"^{name} is"):
            torchrun_place({**good, name: value})


def test_alone_nothing_is_asked() -> None:
    world = World()
    assert world.first and world.sum(2.5) == 2.5 and world.any(True, False) == (True, False)
    assert world.gather("x") == ["x"] and world.device("cuda") == "cuda"
    with pytest.raises(KeyError), world.agreeing():
        raise KeyError
    assert World(1, 2, "ddp", 1, 2).device("cuda") == "cuda:1" and World(1, 2, "ddp", 1, 2).device("cpu") == "cpu"
