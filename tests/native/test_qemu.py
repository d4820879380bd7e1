"""The C++ tests of the CPU kernels on an emulated Haswell: AVX2 and no AVX-512, so dispatch must find the older bodies
and nothing newer may be executed. Needs ``qemu-x86_64`` (Debian: qemu-user) and an x86-64 machine."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

QEMU = shutil.which("qemu-x86_64")
KERNELS = ("linear_test", "attention_test", "norm_test", "embedding_test", "sampling_test")

pytestmark = pytest.mark.skipif(QEMU is None or platform.machine() != "x86_64", reason="no qemu")


@pytest.mark.parametrize("name", KERNELS)
def test_on_haswell(cpp_build: Path, name: str) -> None:
    assert QEMU is not None
    done = subprocess.run(
        [QEMU, "-cpu", "Haswell", cpp_build / "csrc" / "tests" / name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr  # an illegal instruction ends the process with a signal
    assert ", 0 failed" in done.stdout


@pytest.mark.parametrize(("cpu", "isas"), [("Nehalem", ["portable"]), ("Haswell", ["portable", "avx2"])])
def test_the_emulated_cpu_is_an_older_one(cpp_build: Path, cpu: str, isas: list[str]) -> None:
    assert QEMU is not None
    runner = cpp_build / "csrc" / "tests" / "norm_test"
    done = subprocess.run([QEMU, "-cpu", cpu, runner, "bits"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[-1] for line in done.stdout.splitlines() if "ran on" in line] == isas
