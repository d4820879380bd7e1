"""The golden cases as converted directories, opened through the public API on either backend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import tinygptv_fast as tgv
from golden_support import CASES, GOLDEN, Case, convert_case, load_case

BACKENDS = ("reference", "native")


@dataclass(frozen=True)
class Converted:
    """A golden case, the directory made from its files, and the model loaded from it."""

    case: Case
    path: Path
    model: tgv.TinyGPTV

    def image(self, index: int) -> str:
        return str(GOLDEN / "images" / f"img{index}.png")


@pytest.fixture(scope="session")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The directory of each golden case, every number kept. Tests must not change them."""
    folder = tmp_path_factory.mktemp("converted")
    return {name: convert_case(name, folder / name) for name in CASES}


@pytest.fixture(scope="session", params=[(case, backend) for case in CASES for backend in BACKENDS], ids="-".join)
def converted(request: pytest.FixtureRequest, directories: dict[str, Path]) -> Iterator[Converted]:
    case, backend = request.param
    path = directories[case]
    with tgv.TinyGPTV.from_pretrained(path, dtype="float32", quantization="none", backend=backend) as model:
        yield Converted(load_case(case), path, model)


@pytest.fixture(scope="session", params=BACKENDS)
def stage4(request: pytest.FixtureRequest, directories: dict[str, Path]) -> Iterator[tgv.TinyGPTV]:
    with tgv.TinyGPTV.from_pretrained(directories["B_stage4"], backend=request.param) as model:
        yield model


@pytest.fixture(scope="session")
def native(directories: dict[str, Path]) -> Iterator[tgv.TinyGPTV]:
    """The stage 4 case on the native engine, two threads."""
    with tgv.TinyGPTV.from_pretrained(directories["B_stage4"], threads=2) as model:
        yield model
