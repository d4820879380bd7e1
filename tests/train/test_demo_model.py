"""The shipped demo model, examined on pictures and questions drawn afresh here."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest

import tinygptv_fast as tgv
from tinygptv_fast.checkpoint.directory import ModelDirectory, open_directory
from tinygptv_fast.data.demo_scene import demo_scene, draw_demo_scene
from tinygptv_fast.data.scoring import iou, is_right
from tinygptv_fast.data.vocabulary import tokenizer_json
from tinygptv_fast.processing.tokenizer import Tokenizer
from tinygptv_fast.reference.model import TinyGPTVReference
from tinygptv_fast.train.batches import RowEncoder
from tinygptv_fast.train.evaluation import examine, make_exam, picture, score
from tinygptv_fast.train.recipe import Recipe
from tinygptv_fast.train.ship import LOG_FILE, read_back

SEED = 77_000_001  # not the seed of the exam in the training log, nor of anything in training
PER_KIND = 18  # 198 questions in all
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
    grey = examine(stored, encoder, 8, seed=SEED, grey=True)
    assert grey["accuracy"] <= 0.35, grey  # the log's exam says 0.17; three standard deviations of 88 questions


def test_the_facade_gives_the_same_answers() -> None:
    items = make_exam(2, SEED + 1)
    with tgv.TinyGPTV.from_pretrained("demo", backend="reference") as model:
        answers = [model.generate(picture(i), i.question.prompt, task=i.question.task).text for i in items]
    assert score(items, answers)["accuracy"] >= 0.75, list(zip(items, answers, strict=True))  # 22 questions: 3 s.d.


def test_refer_and_identify_speak_in_pixels() -> None:
    """Ten demo scenes, the first clear object of each, both ways. Deterministic; the exam's own rate is about 0.9."""
    found, named = [], []
    with tgv.TinyGPTV.from_pretrained("demo", backend="reference") as model:
        for seed in range(10):
            image, _ = draw_demo_scene(seed)
            scene, _ = demo_scene(seed)
            item = next(o for o in scene.objects if len(scene.find(o.colour, o.shape)) == 1)
            pixels = tuple(v * image.width for v in item.box)
            boxes = model.refer(image, f"the {item.name}")
            found.append(len(boxes) == 1 and iou(boxes[0].xyxy, pixels) > 0.5)
            named.append(model.identify(image, pixels).text == item.name)
    assert sum(found) >= 8, found
    assert sum(named) >= 8, named


def test_demo_questions_are_mostly_right() -> None:
    """Captions of three or four objects are the demo's weak side, so they are not asked of it here."""
    marks = []
    with tgv.TinyGPTV.from_pretrained("demo", backend="reference") as model:
        for seed in range(4):
            image, _ = draw_demo_scene(seed)
            for question in demo_scene(seed)[1]:
                if question.kind not in ("caption", "grounding"):
                    answer = model.generate(image, question.prompt, task=question.task)
                    marks.append(is_right(question, answer.text))
    assert len(marks) == 16 and sum(marks) >= 14, marks


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


def test_the_default_recipe_is_the_one_that_made_it(directory: ModelDirectory) -> None:
    log = json.loads((directory.path / LOG_FILE).read_text(encoding="utf-8"))
    assert Recipe.from_dict(log["recipe"]) == Recipe()
    assert [entry["step"] for entry in log["log"] if entry["phase"] == "see"][-1] == Recipe().see.steps
