"""Golden models converted once for these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinygptv_fast.checkpoint.directory import ModelDirectory, open_directory
from tinygptv_fast.conversion import convert
from tinygptv_fast.diagnosis.weights import OriginalSource, open_originals


def _files(golden_dir: Path) -> dict[str, Path]:
    return {
        "phi": golden_dir / "phi",
        "vision": golden_dir / "eva_vit_g.pth",
        "qformer": golden_dir / "blip2_pretrained_flant5xxl.pth",
        "checkpoint": golden_dir / "TinyGPT-V_for_Stage3.pth",
        "architecture": golden_dir / "sizes.json",
    }


@pytest.fixture(scope="session", params=["int4", "none"])
def directory(
    request: pytest.FixtureRequest, golden_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> ModelDirectory:
    """The small golden model of stage 3, at int4 and with nothing rounded."""
    out = tmp_path_factory.mktemp("diagnosis") / request.param
    convert(**_files(golden_dir), image_size=56, quantization=request.param, out=out)
    return open_directory(out)


@pytest.fixture(scope="session")
def originals(directory: ModelDirectory, golden_dir: Path) -> OriginalSource:
    """The original files of ``directory``."""
    return open_originals(directory, **_files(golden_dir))
