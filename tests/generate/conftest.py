"""The golden cases as converted directories, opened through the public API."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import tinygptv_fast as tgv
from golden_support import CASES, GOLDEN, Case, load_case


@dataclass(frozen=True)
class Converted:
    """A golden case, the directory made from its files, and the model loaded from it."""

    case: Case
    path: Path
    model: tgv.TinyGPTV

    def image(self, index: int) -> str:
        return str(GOLDEN / "images" / f"img{index}.png")


def convert_case(name: str, out: Path, **settings: object) -> Path:
    """The files of golden case ``name`` as a directory at ``out``; every number kept unless ``settings`` say more."""
    build = load_case(name).info["build"]
    tgv.convert(
        phi=GOLDEN / build["phi_dir"],
        vision=GOLDEN / "eva_vit_g.pth",
        qformer=GOLDEN / "blip2_pretrained_flant5xxl.pth",
        checkpoint=GOLDEN / build["ckpt"],
        out=out,
        image_size=build["image_size"],
        architecture=GOLDEN / "sizes.json",
        **{"quantization": "none", "dtype": "float32", **settings},  # type: ignore[arg-type]
    )
    return out


@pytest.fixture(scope="session", params=CASES)
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Converted]:
    path = convert_case(request.param, tmp_path_factory.mktemp("converted") / request.param)
    with tgv.TinyGPTV.from_pretrained(path, dtype="float32", quantization="none", backend="reference") as model:
        yield Converted(load_case(request.param), path, model)


@pytest.fixture(scope="session")
def stage4(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tgv.TinyGPTV]:
    path = convert_case("B_stage4", tmp_path_factory.mktemp("stage4") / "model")
    with tgv.TinyGPTV.from_pretrained(path, backend="reference") as model:
        yield model
