"""The shipped demo model, examined on pictures and questions drawn afresh here."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest

import tinygptv_fast as tgv
from tinygptv_fast.checkpoint.directory import ModelDirectory, open_directory
from tinygptv_fast.data.demo_scene import demo_scene, draw_demo_scene
from tinygptv_fast.data.scenes import FULL
from tinygptv_fast.data.scoring import iou, is_right
from tinygptv_fast.data.vocabulary import tokenizer_json
from tinygptv_fast.processing.tokenizer import Tokenizer
from tinygptv_fast.reference.model import TinyGPTVReference
from tinygptv_fast.train.batches import RowEncoder
from tinygptv_fast.train.evaluation import examine, make_exam, picture, score
from tinygptv_fast.train.ship import LOG_FILE, read_back

SEED = 77_000_001  # not the seed of the exam in the training log, nor of anything in training
PER_KIND = 20
LIMIT_BYTES = 3_000_000


@pytest.fixture(scope="module")
def directory() -> ModelDirectory:
    return open_directory(Path(str(resources.files("tinygptv_fast") / "assets" / "demo")))


@pytest.fixture(scope="module")
def stored(directory: ModelDirectory) -> TinyGPTVReference:
    return read_back(directory)


@pytest.fixture(scope="module")
def encoder(directory: ModelDirectory) -> RowEncoder:
    return RowEncoder(Tokenizer.from_file(directory.tokenizer_file))


def test_right_on_fresh_pictures_and_not_on_grey(stored: TinyGPTVReference, encoder: RowEncoder) -> None:
    figures = examine(stored, encoder, PER_KIND, seed=SEED)
    assert figures["questions"] == PER_KIND * len(figures["kinds"])
    assert figures["accuracy"] >= 0.85, figures
    grey = examine(stored, encoder, PER_KIND, seed=SEED, grey=True)
    assert grey["accuracy"] <= 0.30, grey
    # yes-or-no questions are the only ones that guessing can answer half of
    assert all(grey["kinds"][kind] <= 0.5 for kind in grey["kinds"] if kind not in ("exist", "relation")), grey


def test_the_facade_gives_the_same_answers() -> None:
    items = make_exam(2, SEED + 1)
    with tgv.TinyGPTV.from_pretrained("demo", backend="reference") as model:
        answers = [model.generate(picture(i), i.question.prompt, task=i.question.task).text for i in items]
    assert score(items, answers)["accuracy"] >= 0.75, list(zip(items, answers, strict=True))  # 22 questions: 3 s.d.


def test_methods_answer_about_the_demo_scene() -> None:
    image, asked = draw_demo_scene(0)
    scene, questions = demo_scene(0)
    with tgv.TinyGPTV.from_pretrained("demo", backend="reference") as model:
        right = [
            is_right(question, model.generate(image, prompt, task=task).text)
            for question, (prompt, task, _) in zip(questions, asked, strict=True)
        ]
        item = next(o for o in scene.objects if len(scene.find(o.colour, o.shape)) == 1)
        boxes = model.refer(image, f"the {item.name}")
        pixels = tuple(v * image.width for v in item.box)
        named = model.identify(image, pixels)
    assert sum(right) >= len(right) - 1, right
    assert len(boxes) == 1 and iou(boxes[0].xyxy, pixels) > 0.5
    assert named.text == item.name


def test_size_and_contents(directory: ModelDirectory) -> None:
    assert sum(file.stat().st_size for file in directory.path.iterdir()) <= LIMIT_BYTES
    assert directory.config.quantization.text == "int4" and directory.config.quantization.vision == "int8"
    assert directory.tokenizer_file.read_text(encoding="utf-8") == tokenizer_json()
    assert directory.template.name == "inst"


def test_log_reports_what_was_measured(directory: ModelDirectory) -> None:
    log = json.loads((directory.path / LOG_FILE).read_text(encoding="utf-8"))
    figures = log["figures"]
    assert figures["written"]["questions"] >= 1000
    assert figures["written"]["accuracy"] >= 0.85
    assert figures["written_grey_pictures"]["accuracy"] <= 0.30
    assert directory.quality.agreement is not None
    assert dict(directory.quality.agreement) == figures["agreement"]


def test_exam_pictures_are_not_those_of_training() -> None:
    """Continuous positions make a repeat all but impossible; held-out colour and shape pairs are absent as well."""
    items = make_exam(3, SEED, FULL)
    assert len({item.scene for item in items}) == len(items)
