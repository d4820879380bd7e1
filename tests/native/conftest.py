"""Builds the C++ tests once per session, with the compiler and CMake that built the package."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from filelock import FileLock

REPOSITORY = Path(__file__).resolve().parents[2]


def find_tool(name: str) -> str:
    """The tool beside this interpreter (the virtual environment's), or the one on PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is needed to build the C++ tests; `make install` brings it"
    return found


_BUILDING_S = 1200.0  # most that compiling the C++ tests may take, beside other tests; QEMU too is slow


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whichever test of a process is the first to need the build waits for all of it."""
    for item in items:
        if "cpp_build" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(_BUILDING_S), append=False)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


def package_build() -> Path | None:
    """Where `make build` compiled the package from this checkout, if it did: the tests are made of the same objects."""
    version = f"cp{sys.version_info.major}{sys.version_info.minor}"
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    folder = REPOSITORY / "build" / f"{version}-{version}-{platform}"
    cache = folder / "CMakeCache.txt"
    home = f"CMAKE_HOME_DIRECTORY:INTERNAL={REPOSITORY}"
    return folder if cache.exists() and home in cache.read_text(encoding="utf-8").splitlines() else None


@pytest.fixture(scope="session")
def cpp_build() -> Path:
    """The build folder of the C++ tests, up to date. Kept between sessions, so that only changes are compiled."""
    folder = package_build()
    commands = []
    if folder is None:
        folder = REPOSITORY / "build" / "tests"
        configure = [find_tool("cmake"), "-S", str(REPOSITORY), "-B", str(folder), "-G", "Ninja", "-DTINYGPTV_TESTS=ON"]
        commands.append([*configure, f"-DCMAKE_MAKE_PROGRAM={find_tool('ninja')}"])
    commands.append([find_tool("cmake"), "--build", str(folder), "--target", "cpp_tests", "--parallel", "2"])
    folder.parent.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):  # of two processes with tests that need it, the first builds it
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return folder
