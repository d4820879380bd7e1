"""benchmarks/gpu_check.py: nothing is called a pass that is not one, and results outlive an interrupted call."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def gpu_check(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", repository / "benchmarks" / "gpu_check.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fake_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An nvidia-smi that knows a GPU."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\ncase "$1" in *name*) echo "NVIDIA Test 9000 (8GB)";; *) echo 123.45;; esac\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")


def test_without_a_gpu_it_says_so_in_one_line(repository: Path, tmp_path: Path) -> None:
    """With a PATH that has a shell and Python but no nvidia-smi."""
    for tool in ("dirname", "sh"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
    done = subprocess.run(
        ["/bin/sh", repository / "benchmarks" / "gpu_check.sh", "--out", tmp_path / "results"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(tmp_path), "PYTHON": sys.executable},
    )
    assert done.returncode == 2
    assert done.stderr == "gpu_check: no NVIDIA GPU on this machine (nvidia-smi finds none); nothing was run\n"
    assert not (tmp_path / "results").exists()


def test_a_command_passes_fails_is_stopped_or_is_not_there(gpu_check: ModuleType) -> None:
    run = gpu_check.Runner()
    passed = run(["sh", "-c", 'echo \'{"name": "x", "us": 1.5}\'; echo "{not json}"'], 20)
    assert (passed.status, passed.measurements) == ("passed", [{"name": "x", "us": 1.5}])
    failed = run(["sh", "-c", "echo broken; exit 3"], 20)
    assert failed.status == "failed"
    assert "exit code 3" in failed.detail and "broken" in failed.detail
    stopped = run(["sh", "-c", "echo begun; sleep 60 & wait"], 0.5)
    assert stopped.status == "failed"
    assert "not done after" in stopped.detail and "begun" in stopped.detail
    assert run(["a-tool-that-is-not-there"], 20).status == "not available"


def test_what_no_longer_fits_is_not_run(gpu_check: ModuleType) -> None:
    step = gpu_check.Runner(total_s=1)(["false"], 20)
    assert step.status == "not available"
    assert "used up" in step.detail


@pytest.mark.usefixtures("fake_gpu")
def test_sections_are_recorded_one_by_one(
    gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(run: object) -> dict[str, object]:
        raise KeyboardInterrupt

    first = {"a": gpu_check.Step("passed", measurements=[{"name": "m"}]), "b": gpu_check.Step("failed", "why")}
    monkeypatch.setattr(gpu_check, "SECTIONS", {"test": lambda run: first, "bench": interrupted})
    with pytest.raises(KeyboardInterrupt):
        gpu_check.main(["--out", str(tmp_path)])
    path = tmp_path / "nvidia-test-9000-8gb.json"
    data = json.loads(path.read_text())
    assert set(data["sections"]) == {"test"}
    assert data["sections"]["test"]["machine"]["driver"] == "123.45"
    assert data["sections"]["test"]["steps"]["b"] == {"status": "failed", "seconds": 0.0, "detail": "why"}

    monkeypatch.setattr(gpu_check, "SECTIONS", {"bench": lambda run: {"c": gpu_check.not_available("no tool")}})
    assert gpu_check.main(["--out", str(tmp_path), "--only", "bench"]) == 0
    data = json.loads(path.read_text())
    assert set(data["sections"]) == {"test", "bench"}
    assert data["sections"]["bench"]["steps"]["c"]["status"] == "not available"
    assert "bench: c: not available" in capsys.readouterr().out


@pytest.mark.usefixtures("fake_gpu")
def test_a_failed_step_fails_the_call(gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "SECTIONS", {"test": lambda run: {"b": gpu_check.Step("failed", "why")}})
    assert gpu_check.main(["--out", str(tmp_path)]) == 1


def test_what_was_not_built_is_not_available(
    gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "BUILD", tmp_path)
    monkeypatch.setattr(gpu_check, "REPOSITORY", tmp_path)
    run = gpu_check.Runner()
    for section in ("test", "check", "bench", "e2e"):
        steps = gpu_check.SECTIONS[section](run)
        assert steps
        assert {step.status for step in steps.values()} == {"not available"}, section


@pytest.mark.parametrize(
    ("program", "settings", "right", "names"),
    [
        (
            "gpu_accelerate.py",
            ["--layers", "2", "--width", "160"],
            "right",
            ["accelerate_native", "accelerate_loop"],
        ),
        (
            "gpu_pictures.py",
            ["--layers", "1", "--rounds", "1", "--sizes", "28"],
            "same_ids_as_the_cpu",
            [
                "pictures_demo",
                *(f"tower_{n}" for n in ("bfloat16_28", "bfloat16_28_offloaded", "int8_28", "int8_28_offloaded")),
            ],
        ),
        (
            "gpu_ops.py",
            [],
            "right",
            [
                *("int4_matmul_float16_1", "int8_matmul_float16_1"),
                *("matmul_float16_1", "matmul_bfloat16_1", "matmul_float32_1"),
                *("int4_matmul_float16_20", "int8_matmul_float16_20"),
                *("matmul_float16_20", "matmul_bfloat16_20", "matmul_float32_20"),
                *("layer_norm", "rms_norm", "embedding", "paged_attention_batch", "paged_attention_prompt"),
            ],
        ),
    ],
)
def test_what_a_gpu_will_be_asked(
    repository: Path, cpp_build: Path, program: str, settings: list[str], right: str, names: list[str]
) -> None:
    """The end-to-end programs, small and on the CPU."""
    environment = dict(os.environ)
    if program == "gpu_ops.py":  # kernels, without an engine around them
        environment["TINYGPTV_CUDA_EMULATION"] = str(cpp_build / "csrc" / "tests" / "libtinygptv_cuda_emulated.so")
    command = [sys.executable, repository / "benchmarks" / program, repository / "python", "--device", "cpu", *settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=840, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [one["name"] for one in lines] == names
    assert all(one[right] is True for one in lines if right in one) and lines[0][right]
