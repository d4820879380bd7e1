"""The C++ tests (csrc/tests): plain executables, CUDA sources included, run here on the CPU."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from side_by_side import side_by_side

EXECUTABLES = (
    "base_test",
    "thread_pool_test",
    "kv_test",
    "linear_test",
    "norm_test",
    "embedding_test",
    "sampling_test",
    "attention_test",
    "decoder_test",
    "engine_test",
    "cuda_stub_test",
    "simt_test",
    "int4_gemv_test",
    "paged_attention_test",
    "cuda_advance_test",
    "cuda_norm_test",
    "cuda_qkv_append_test",
    "cuda_page_copy_test",
    "cuda_sampling_test",
    "cuda_decoder_test",
    "cuda_graphs_test",
    "cuda_draws_test",
    "cuda_engine_test",
    "cuda_embedding_test",
    "prefill_attention_test",
    "int4_gemm_test",
    "half_gemm_test",
    "float_gemm_test",
    "int8_gemm_test",
)


# Of more than one thread each, which would get in each other's way.
THREADED = ("base_test", "thread_pool_test", "linear_test", "attention_test", "decoder_test", "engine_test")


def run(cpp_build: Path, name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([cpp_build / "csrc" / "tests" / name], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def finished(
    request: pytest.FixtureRequest, cpp_build: Path
) -> Iterator[Callable[[str], subprocess.CompletedProcess[str]]]:
    def needed(test: str, name: str) -> list[str]:
        return [name] if test == "test_executable" and name not in THREADED else []

    with side_by_side(request, needed, functools.partial(run, cpp_build)) as result:
        yield result


@pytest.mark.parametrize("name", THREADED)
def test_threaded_executable(cpp_build: Path, name: str) -> None:
    check(run(cpp_build, name))


@pytest.mark.parametrize("name", [name for name in EXECUTABLES if name not in THREADED])
def test_executable(finished: Callable[[str], subprocess.CompletedProcess[str]], name: str) -> None:
    check(finished(name))


def check(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 failed" in done.stdout


def test_every_executable_is_run(repository: Path) -> None:
    in_tree = {path.stem for path in (repository / "csrc" / "tests").glob("*_test.cc")}
    assert in_tree == set(EXECUTABLES)


def test_a_failing_check_fails_the_executable(cpp_build: Path) -> None:
    """The environment can ask for a mutation no schedule order 0 would show: the runner must report it."""
    runner = cpp_build / "csrc" / "tests" / "simt_test"
    nothing = subprocess.run([runner, "no_test_has_this_name"], capture_output=True, text=True, check=False)
    assert nothing.returncode == 1
    assert "0 tests" in nothing.stdout


def test_kernels_do_not_depend_on_a_schedule_from_outside(cpp_build: Path) -> None:
    environment = {**os.environ, "SIMT_ORDER": "77", "SIMT_LAZY_COPIES": "0"}
    runner = cpp_build / "csrc" / "tests" / "int4_gemv_test"
    done = subprocess.run([runner, "edge"], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
