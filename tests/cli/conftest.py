"""The command line run inside the test process, and converted golden models to run it on."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tinygptv_fast.cli import main


@dataclass(frozen=True)
class Result:
    """What a program that calls ``tinygptv`` sees."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run("ask", "x.png", ..., stdin=b"...")``."""

    def call(*args: object, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def originals(golden_dir: Path) -> list[str]:
    """The options that name the original's files of the small model."""
    return [
        *("--phi", str(golden_dir / "phi")),
        *("--vision", str(golden_dir / "eva_vit_g.pth")),
        *("--qformer", str(golden_dir / "blip2_pretrained_flant5xxl.pth")),
        *("--checkpoint", str(golden_dir / "TinyGPT-V_for_Stage3.pth")),
        *("--architecture", str(golden_dir / "sizes.json")),
    ]


def _converted(originals: list[str], out: Path, *more: str) -> Path:
    assert main(["convert", *originals, "--image-size", "56", "--out", str(out), *more]) == 0
    return out


@pytest.fixture(scope="session")
def int4_model(originals: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model at int4, vision int8. Tests must not change it."""
    return _converted(originals, tmp_path_factory.mktemp("models") / "int4")


@pytest.fixture(scope="session")
def exact_model(originals: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with nothing rounded. Tests must not change it."""
    return _converted(originals, tmp_path_factory.mktemp("models") / "exact", "--quantization", "none")


@pytest.fixture
def picture(golden_dir: Path) -> Path:
    """A picture file."""
    return golden_dir / "images" / "img0.png"
