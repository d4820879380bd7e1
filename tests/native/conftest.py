"""Builds the C++ tests once per session, with the compiler and CMake that built the package."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def find_tool(name: str) -> str:
    """The tool beside this interpreter (the virtual environment's), or the one on PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is needed to build the C++ tests; `make install` brings it"
    return found


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def cpp_build() -> Path:
    """The build folder of the C++ tests, up to date. Kept between sessions, so that only changes are compiled."""
    folder = REPOSITORY / "build" / "tests"
    configure = [find_tool("cmake"), "-S", str(REPOSITORY), "-B", str(folder), "-G", "Ninja", "-DTINYGPTV_TESTS=ON"]
    configure.append(f"-DCMAKE_MAKE_PROGRAM={find_tool('ninja')}")
    for command in (configure, [find_tool("cmake"), "--build", str(folder), "--parallel", "2"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return folder
