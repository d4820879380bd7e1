"""A directory of random weights is whole, and is what any other directory is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinygptv_fast.bench.options import SHAPES
from tinygptv_fast.bench.random_directory import write_random_directory
from tinygptv_fast.checkpoint.directory import open_directory
from tinygptv_fast.config import QFormerConfig, VisionConfig

TOWER = VisionConfig(image_size=56, width=64, layers=2, heads=4, mlp_width=128)
QFORMER = QFormerConfig(width=64, layers=2, heads=4, mlp_width=128)


@pytest.mark.parametrize(("vision", "qformer"), [(None, None), (TOWER, QFORMER)])
@pytest.mark.parametrize("group", [32, 128])
def test_it_opens_and_its_hashes_hold(tmp_path: Path, vision: VisionConfig, qformer: QFormerConfig, group: int) -> None:
    write_random_directory(tmp_path / "model", SHAPES["tiny"], group, vision=vision, qformer=qformer)
    opened = open_directory(tmp_path / "model")
    assert opened.verify_hashes() == []
    assert opened.config.text == SHAPES["tiny"] and opened.config.quantization.group_size == group
    assert opened.quality.totals()["int4"]["tensors"] == 4 * SHAPES["tiny"].layers + 1
    rows = opened.dequantized("text.layers.0.mlp.fc2.weight")
    assert bool(rows.isfinite().all()) and 0.3 < float(rows.norm(dim=1).mean()) < 3  # rows of length about one
