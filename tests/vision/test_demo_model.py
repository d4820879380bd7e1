"""What int8 costs the shipped demo model: its exam, answered by the same text model from both towers' tokens."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import torch
from torch import Tensor, nn

from tinygptv_fast.checkpoint.directory import open_directory
from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.processing.image import ImageProcessor
from tinygptv_fast.processing.tokenizer import Tokenizer
from tinygptv_fast.reference.model import TinyGPTVReference
from tinygptv_fast.train.demo.report import make_exam, read_back
from tinygptv_fast.train.demo.rows import Conversation, RowWriter, quick_marks
from tinygptv_fast.vision import VisionTower

from .conftest import needs

SEED = 77_000_001  # the exam of tests/train/test_demo_model.py
QUESTIONS = 400
SIDE = 256


@needs("int8")
def test_int8_costs_at_most_half_a_point() -> None:
    directory = open_directory(Path(str(resources.files("tinygptv_fast") / "assets" / "demo")))
    items = [item for item in make_exam(QUESTIONS, seed=SEED) if not item.question.history]
    processor = ImageProcessor.from_dict(directory.preprocessor)
    pixels = [processor.pixels(draw(item.scene, SIDE)) for item in items]
    asked = [Conversation((item.question,), (True,), None, index) for index, item in enumerate(items)]
    model = read_back(directory.path)
    assert model.config.qformer is not None
    writer = RowWriter(Tokenizer.from_file(directory.tokenizer_file), model.config.qformer.queries)

    def right(kind: str) -> int:
        tower = VisionTower(directory, kind)
        return _right(model, torch.stack([tower.encode(one) for one in pixels]), writer, asked)

    exact, rounded = right("float32"), right("int8")
    assert exact >= 0.85 * len(items)
    assert rounded >= exact - 0.005 * len(items) - 1, (exact, rounded)  # half a point, and one for the grain


def _right(model: TinyGPTVReference, visual: Tensor, writer: RowWriter, asked: list[Conversation]) -> int:
    """How many are right, from what the projector gave already."""
    shares = quick_marks(writer, model.text, nn.Identity(), visual, asked)
    counts = {kind: sum(one.questions[0].kind == kind for one in asked) for kind in shares}
    return round(sum(share * counts[kind] for kind, share in shares.items()))
