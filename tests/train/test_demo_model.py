"""The shipped demo model, examined on pictures and questions drawn afresh here, and the record of how it was made."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

import tinygptv_fast as tgv
from tinygptv_fast.checkpoint.directory import ModelDirectory, open_directory
from tinygptv_fast.data.scoring import iou
from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.lexicon import ONLY_KNOWN
from tinygptv_fast.data.world.sampler import ExamItem, grey_picture
from tinygptv_fast.data.world.scoring import is_right
from tinygptv_fast.data.world.shapes import to_pixels
from tinygptv_fast.data.world.showcase import SHOWCASE_SIDE, showcase
from tinygptv_fast.data.world_vocabulary import TEMPLATE, tokenizer_json
from tinygptv_fast.train.demo.log import FILE_NAME
from tinygptv_fast.train.demo.recipe import PHASES, DemoRecipe
from tinygptv_fast.train.demo.report import make_exam, score
from tinygptv_fast.train.demo.taking import SEEN, TAKEN

SEED = 77_000_001  # not the seed of the exam in the training log, nor of anything in training
QUESTIONS = 400
SHOWCASES = 24
LIMIT_BYTES = 12_000_000
SIDE = 256


@pytest.fixture(scope="module")
def directory() -> ModelDirectory:
    return open_directory(Path(str(resources.files("tinygptv_fast") / "assets" / "demo")))


@pytest.fixture(scope="module")
def log(directory: ModelDirectory) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((directory.path / FILE_NAME).read_text(encoding="utf-8"))
    return record


@pytest.fixture(scope="module")
def model() -> Iterator[tgv.TinyGPTV]:
    with tgv.TinyGPTV.from_pretrained("demo") as opened:
        yield opened


def answers(model: tgv.TinyGPTV, items: list[ExamItem], *, grey: bool = False) -> list[str]:
    requests = []
    for item in items:
        messages = item.question.messages()
        messages[0]["content"][0]["image"] = grey_picture(item.scene, SIDE) if grey else draw(item.scene, SIDE)
        requests.append({"messages": messages})
    out = []
    for start in range(0, len(requests), 32):
        for one in model.generate_batch(requests[start : start + 32]):
            assert not isinstance(one, Exception), one
            out.append(one.text)
    return out


def least(stated: float, count: int) -> float:
    """Three standard deviations of ``count`` questions below the share that the log states."""
    return stated - 3 * (stated * (1 - stated) / count) ** 0.5


def test_answers_say_how_likely_they_are_right(model: tgv.TinyGPTV) -> None:
    """A model that is trained anew needs a calibration anew."""
    item = make_exam(QUESTIONS, seed=SEED)[0]
    answer = model.generate(draw(item.scene, SIDE), item.question.prompt, task=item.question.task)
    assert answer.confidence is not None and 0 < answer.confidence < 1


def test_right_on_fresh_pictures_and_not_on_grey(model: tgv.TinyGPTV, log: dict[str, Any]) -> None:
    items = make_exam(QUESTIONS, seed=SEED)
    given = answers(model, items)
    figures = score([(item.question, answer) for item, answer in zip(items, given, strict=True)])
    assert figures["all"]["share"] >= least(log["figures"]["int4"]["all"]["share"], len(items)), figures
    seeing = [item for item in items if item.question.kind in ("colour", "shape", "count", "word", "refer", "side")]
    blind = [
        is_right(item.question, answer) for item, answer in zip(seeing, answers(model, seeing, grey=True), strict=True)
    ]
    assert sum(blind) <= 0.40 * len(blind), sum(blind)


def test_refer_and_identify_speak_in_pixels(model: tgv.TinyGPTV, log: dict[str, Any]) -> None:
    found, named = [], []
    for seed in range(SHOWCASES):
        example = showcase(seed)
        picture = draw(example.scene, SHOWCASE_SIDE)
        names = [thing.name for thing in example.scene.shapes]
        thing = next(thing for thing in example.scene.shapes if names.count(thing.name) == 1)
        pixels = to_pixels(thing.box, picture.size)
        boxes = model.refer(picture, f"the {thing.name}")
        found.append(len(boxes) == 1 and iou(boxes[0].xyxy, tuple(map(float, pixels))) > 0.5)
        named.append(model.identify(picture, pixels).text == thing.name)
    for kind, right in (("refer", found), ("identify", named)):
        stated = log["figures"]["int4"]["kinds"][kind]["share"]
        assert sum(right) >= SHOWCASES * least(stated, SHOWCASES), (kind, right)


def test_it_says_what_it_does_not_know(model: tgv.TinyGPTV) -> None:
    picture = draw(showcase(1).scene, SHOWCASE_SIDE)
    assert model.generate(picture, "Is there a dog?", task="vqa").text == ONLY_KNOWN


def test_size_and_contents(directory: ModelDirectory) -> None:
    assert sum(file.stat().st_size for file in directory.path.iterdir()) <= LIMIT_BYTES
    assert directory.config.quantization.text == "int4" and directory.config.quantization.vision == "int8"
    assert directory.config.text.head_dim == 80 and directory.config.text.qk_norm
    assert directory.tokenizer_file.read_text(encoding="utf-8") == tokenizer_json()
    assert directory.template.name == TEMPLATE


def test_log_and_receipt_report_what_was_measured(directory: ModelDirectory, log: dict[str, Any]) -> None:
    figures = log["figures"]
    assert figures["int4"]["all"]["asked"] >= 4000
    assert min(family["asked"] for family in figures["int4"]["families"].values()) >= 400
    assert {"grey picture", "other picture", "held-out pairs", "held-out wordings", "held-out words"} <= set(figures)
    assert figures["agreement"]["share"] > 0.9
    assert directory.quality.agreement is not None


def test_the_log_names_the_recipe_and_the_page_what_has_changed_since(log: dict[str, Any]) -> None:
    """Every phase was run with the recipe of the log; where the default is another by now, the page names it."""
    made, now = log["recipe"], json.loads(json.dumps(DemoRecipe().to_dict()))
    whole = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
    assert set(log["phases"]) == set(PHASES[:-1])
    for phase, done in log["phases"].items():
        if "taken" in done:
            assert phase in (*TAKEN, *SEEN, "text")
        elif done["recipe"] != whole:  # newer logs name what a phase depends on, of the settings there were then
            settings = {n: v for n, v in DemoRecipe.from_dict(made).settings_of(phase).items() if n in made}
            assert done["recipe"] == hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    changed = {name for name, value in now.items() if made.get(name) != value}
    page = (Path(__file__).parents[2] / "docs" / "training_the_demo.md").read_text(encoding="utf-8")
    start = page.find("The shipped model was made with the recipe before this one.")
    named = set(re.findall(r"`(\w+)`", page[start : page.index("\n\n", start)])) if start >= 0 else set()
    assert named == changed
