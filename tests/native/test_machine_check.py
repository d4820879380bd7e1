"""tools/check_machine.sh: what a machine lacks is one line that names it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(repository: Path, python: str, compiler: str) -> subprocess.CompletedProcess[str]:
    script = repository / "tools" / "check_machine.sh"
    return subprocess.run([script, python, compiler], capture_output=True, text=True, check=False)


def fake(folder: Path, name: str, body: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_this_machine_is_silent(repository: Path) -> None:
    done = run(repository, sys.executable, os.environ.get("CXX", "g++"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("python_body", "compiler", "message"),
    [
        (None, "g++", "no '/nowhere/python' found"),
        ("exit 1", "g++", "does not run"),
        ('case "$2" in *print*) echo 3.8;; *) exit 1;; esac', "g++", "is Python 3.8; Python 3.10 or newer"),
        ('case "$2" in *ensurepip*) exit 1;; *) exec {python} "$@";; esac', "g++", "has no venv module"),
        ('case "$2" in *Python.h*) exit 1;; *) exec {python} "$@";; esac', "g++", "has no Python.h header"),
        ('exec {python} "$@"', "/nowhere/g++", "no C++ compiler '/nowhere/g++' found"),
        ('exec {python} "$@"', "/bin/false", "does not accept C++20"),
    ],
)
def test_a_lack_is_one_line(
    repository: Path, tmp_path: Path, python_body: str | None, compiler: str, message: str
) -> None:
    python = "/nowhere/python"
    if python_body is not None:
        python = fake(tmp_path, "python", python_body.replace("{python}", sys.executable))
    done = run(repository, python, compiler)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
