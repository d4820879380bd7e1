"""examples/cpp/decode.cpp: the engine in a program that links neither Python nor torch."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tinygptv_fast import _native
from tinygptv_fast.config import TextConfig
from tinygptv_fast.generate.image_state import ImageState

CONFIG = TextConfig(
    width=64, layers=2, heads=2, head_dim=32, rotary_dims=16, mlp_width=128, vocab_size=101, max_positions=512
)
MATRIX = ("int4", 32, True)


@pytest.fixture(scope="module")
def decode(cpp_build: Path) -> Path:
    return cpp_build / "csrc" / "capi" / "decode"


@pytest.fixture(scope="module")
def weights() -> _native.Weights:
    forms = {"body": MATRIX, "head": MATRIX, "embedding": "int8"}
    return _native.Weights.random(dataclasses.asdict(CONFIG), forms, seed=5)


@pytest.fixture(scope="module")
def model(weights: _native.Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "model.tgvp"
    weights.save(str(path))
    return path


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "picture.tgvi"
    ImageState(torch.randn(4, CONFIG.width, generator=torch.Generator().manual_seed(3)), 64, 48, "m").save(path)
    return path


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120)


def expected_ids(weights: _native.Weights, ids: list[int], embeddings: np.ndarray | None, count: int) -> list[int]:
    engine = _native.Engine(weights, threads=1, kv_kind="int8", kv_tokens=512)
    request = engine.submit(np.array(ids, np.int32), embeddings, max_new_tokens=count)
    found: list[int] = []
    while True:
        for event in engine.next(request, 60.0):
            if event[0] == "token":
                found.append(event[2])
            elif event[0] == "done":
                engine.close()
                return found


def test_links_neither_python_nor_torch(decode: Path) -> None:
    if shutil.which("ldd") is None:
        pytest.fail("ldd is needed to see what the program links")
    libraries = subprocess.run(["ldd", decode], capture_output=True, text=True, check=True).stdout
    assert "libtinygptv" in libraries
    assert not any(name in libraries.lower() for name in ("python", "torch", "libgomp"))


def test_the_library_shows_nothing_but_its_interface(decode: Path) -> None:
    library = next(decode.parent.glob("libtinygptv.so*")).resolve()
    listing = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True)
    names = [line.split()[-1] for line in listing.stdout.splitlines()]
    ours = [name for name in names if "tgv" in name]
    assert ours
    assert all(name.startswith("tgv_") for name in ours)


def test_the_same_ids_as_from_python(decode: Path, model: Path, weights: _native.Weights) -> None:
    done = run(decode, model, "--ids", "7,1,99,4", "--max-new-tokens", 20)
    assert done.returncode == 0, done.stderr
    assert [int(line) for line in done.stdout.split()] == expected_ids(weights, [7, 1, 99, 4], None, 20)
    assert "end: length" in done.stderr
    assert "20 tokens" in done.stderr


def test_a_saved_picture(decode: Path, model: Path, picture: Path, weights: _native.Weights) -> None:
    rows = ImageState.load(picture).embeddings.numpy()
    expected = expected_ids(weights, [7, -1, -1, -1, -1, 3], rows, 12)
    for ids in ("7,image,3", "7,-1,-1,-1,-1,3"):
        done = run(decode, model, "--ids", ids, "--image", picture, "--max-new-tokens", 12, "--threads", 2)
        assert [int(line) for line in done.stdout.split()] == expected, done.stderr
    done = run(decode, model, "--ids", "7,image,3", "--image", picture, "--end", expected[4], "--max-new-tokens", 12)
    assert [int(line) for line in done.stdout.split()] == expected[: expected.index(expected[4]) + 1]
    assert "end: stop" in done.stderr


def test_ctrl_c_still_ends_the_answer(decode: Path, model: Path) -> None:
    command = [decode, model, "--ids", "1", "--max-new-tokens", "500"]
    for _ in range(5):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        if "end: cancelled" in errors:
            return
        time.sleep(0.01)
    raise AssertionError("the program was never cancelled in time")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "usage"),
        (["--ids"], "--ids has no value"),
        (["--ids", "1,x"], "--ids is 'x'"),
        (["--ids", "1,,2"], "--ids is ''"),
        (["--ids", "101"], "101"),
        (["--ids", "1", "--max-new-tokens", "0"], "--max-new-tokens is '0'"),
        (["--ids", "1", "--max-new-tokens", "100000"], "max_new_tokens"),
        (["--ids", "1,-1"], "embeddings"),
        (["--ids", "1", "--image", "/none.tgvi"], "/none.tgvi cannot be opened"),
        (["--wish", "1"], "there is no option --wish"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(decode: Path, model: Path, arguments: list[str], complaint: str) -> None:
    done = run(decode, *([model] if arguments else []), *arguments)
    assert done.returncode == 2, done.stderr
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_files_that_are_not_what_they_should_be(decode: Path, model: Path, picture: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.tgvi"
    cut.write_bytes(picture.read_bytes()[:-6])
    noise = tmp_path / "noise.tgvi"
    noise.write_bytes(b"\xff" * 64)
    for bad, complaint in ((cut, "expected rows of 64"), (noise, "not a saved image state")):
        done = run(decode, model, "--ids", "1,image", "--image", bad)
        assert (done.returncode, complaint in done.stderr) == (2, True), done.stderr
    damaged = tmp_path / "model.tgvp"
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    done = run(decode, damaged, "--ids", "1")
    assert (done.returncode, "damaged" in done.stderr) == (2, True), done.stderr
    done = run(decode, tmp_path / "none.tgvp", "--ids", "1")
    assert (done.returncode, "cannot open" in done.stderr) == (1, True), done.stderr
