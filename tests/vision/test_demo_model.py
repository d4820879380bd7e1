"""What int8 costs the shipped demo model: its exam, answered by the same text model from both towers' tokens."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import torch
from torch import Tensor, nn

from tinygptv_fast.checkpoint.directory import open_directory
from tinygptv_fast.processing.tokenizer import Tokenizer
from tinygptv_fast.train.batches import RowEncoder
from tinygptv_fast.train.evaluation import answer_all, make_exam, score
from tinygptv_fast.train.ship import read_back
from tinygptv_fast.vision import VisionTower

from .conftest import needs

SEED = 77_000_001  # the exam of tests/train/test_demo_model.py
PER_KIND = 18  # 198 questions: half a point is one of them


class WithTower(nn.Module):
    """The demo's text model behind another vision side, for ``train.evaluation``."""

    def __init__(self, model: nn.Module, tower: VisionTower) -> None:
        super().__init__()
        self.config, self.text, self.tower = model.config, model.text, tower

    def encode_image(self, pixels: Tensor) -> Tensor:
        return torch.stack([self.tower.encode(one) for one in pixels])


@needs("int8")
def test_int8_costs_at_most_half_a_point() -> None:
    directory = open_directory(Path(str(resources.files("tinygptv_fast") / "assets" / "demo")))
    encoder = RowEncoder(Tokenizer.from_file(directory.tokenizer_file))
    model, items, accuracy = read_back(directory), make_exam(PER_KIND, SEED), {}
    for kind in ("float32", "int8"):
        answers = answer_all(WithTower(model, VisionTower(directory, kind)), encoder, items)  # type: ignore[arg-type]
        accuracy[kind] = score(items, answers)["accuracy"]
    assert accuracy["float32"] >= 0.85
    assert accuracy["int8"] >= accuracy["float32"] - 0.00506, accuracy  # one question of 198
