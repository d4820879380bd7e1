"""The whole way: the drawn world in every format, read, asked and scored, gives what is known without any of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from PIL import Image

from tinygptv_fast.compat.original import OriginalModel, training_begin
from tinygptv_fast.data.scoring import iou, read_boxes
from tinygptv_fast.data.world.scoring import is_right
from tinygptv_fast.errors import InvalidArgumentError
from tinygptv_fast.evaluate.asking import requests
from tinygptv_fast.evaluate.figures import figures, score
from tinygptv_fast.evaluate.question import Given
from tinygptv_fast.evaluate.records import Files
from tinygptv_fast.evaluate.run import Settings, evaluate
from tinygptv_fast.evaluate.sets import get_benchmark
from tinygptv_fast.evaluate.world import FORMS, Exported, export_world, exported
from tinygptv_fast.generate import TinyGPTV

COUNT = 24


def read(form: str, folder: Path, count: int, seed: int):
    found = export_world(form, folder, count, seed)
    return get_benchmark(form).read(Files(found["data"], found["images"], found.get("annotations")))


def is_tie(one: Exported, answer: str) -> bool:
    """An IoU of exactly one half: a hit for the field, a miss for the world, which wants more."""
    given, true = read_boxes(answer), read_boxes(one.question.answer)
    return len(given) == len(true) == 1 and iou(given[0], true[0]) == 0.5


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("form", FORMS)
def test_the_strict_scorer_gives_the_direct_accuracy(form: str, demo: TinyGPTV, tmp_path: Path) -> None:
    data = read(form, tmp_path / "set", COUNT, 5)
    run = evaluate(demo, get_benchmark(form), data, Settings("plain"), tmp_path / "run")
    assert run.skipped == () and len(run.answers) == COUNT
    direct = {one.id: one for one in exported(form, COUNT, 5)}
    scored = score(run)
    verdicts = {one.question.id: is_right(direct[one.question.id].question, one.given.text) for one in scored}
    for one in scored:
        expected = verdicts[one.question.id] or is_tie(direct[one.question.id], one.given.text)
        assert one.strict == float(expected), (one.given.text, direct[one.question.id].question)
    if not any(is_tie(direct[one.question.id], one.given.text) for one in scored):
        means = [f.value for f in figures(run.benchmark, scored) if f.scorer == "strict" and f.unit == "%"]
        assert means == [pytest.approx(100 * sum(verdicts.values()) / COUNT)]


@pytest.mark.parametrize("form", FORMS)
def test_true_answers_are_right_and_others_wrong_whatever_the_model(form: str, tmp_path: Path) -> None:
    """The same without a model: the true answer of each question, and that of another."""
    data = read(form, tmp_path / "set", 12, 9)
    strict, direct = get_benchmark(form).strict, [one.question for one in exported(form, 12, 9)]
    assert [q.id for q in data.questions] == [one.id for one in exported(form, 12, 9)]
    rights = 0
    for question, known in zip(data.questions, direct, strict=True):
        for said in dict.fromkeys(one.answer for one in direct):
            choices = {text: float(text == said) for text in question.choices}
            if question.choices and said not in choices:
                continue  # it cannot be chosen
            assert strict(question, Given(said, choices)) == float(is_right(known, said)), (said, known)
            rights += is_right(known, said)
    assert rights >= 12


@pytest.mark.parametrize("form", ["gqa", "iconqa", "hateful-memes"])
def test_an_export_is_the_same_again_and_whole_or_not_there(form: str, tmp_path: Path) -> None:
    first, second = (export_world(form, tmp_path / name, 5, 1)["data"] for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    pictures = [sorted(p.read_bytes() for p in (tmp_path / name / "images").rglob("*.*")) for name in ("a", "b")]
    assert pictures[0] == pictures[1] and len(pictures[0]) == 5
    assert export_world(form, tmp_path / "c", 5, 2)["data"].read_bytes() != first.read_bytes()
    with pytest.raises(InvalidArgumentError, match="which exists; expected a new directory"):
        export_world(form, tmp_path / "a", 5)

    def fail(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_world(form, tmp_path / "d", 5, report=fail)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="format is 'mmlu', expected one of gqa"):
        exported("mmlu", 3)
    with pytest.raises(InvalidArgumentError, match="count is 0, expected 1"):
        exported("gqa", 0)


def test_the_paper_protocol_asks_as_the_original_does(demo: TinyGPTV, tmp_path: Path) -> None:
    """Wordings, templates and limits of its scripts, to the letter; and the untrimmed text reaches its scorer."""
    expected = {
        "gqa": "###Human: <Img><ImageHere></Img> [vqa] Based on the image, respond to this question with a short "
        "answer: {}###Assistant: ",
        "vsr": "###Human: <Img><ImageHere></Img> [vqa] Based on the image, is this statement true or false? "
        "{}###Assistant: ",
        "vizwiz": "###Human: <Img><ImageHere></Img> [vqa] The question is '{}' Based on the image, answer the question "
        "with a single word or phrase. and reply 'unanswerable' when the provided information is "
        "insufficient###Assistant: ",
        "hateful-memes": "###Human: <Img><ImageHere></Img> This is an image writting '{}'. Is this image hateful? "
        "Answer yes or no. Answer:###Assistant: ",
        "refcoco": "###Human: <Img><ImageHere></Img> [refer] give me the location of {}###Assistant: ",
        "iconqa": "###Human: <Img><ImageHere></Img> [vqa] Based on the image, respond to this question with a short "
        "answer: {} ###Assistant: ",
    }
    for form, prompt in expected.items():
        data = read(form, tmp_path / form, 1, 0)
        question = dataclasses.replace(data.questions[0], text="a {} 'b' {0}?")
        first, *more = requests(demo, get_benchmark(form), question, Settings())
        assert first["prompt"] == prompt.replace("{}", question.text) and first["template"] == "raw"
        if form == "iconqa":
            assert first["choices"] == [f"{choice}\n" for choice in question.choices] and not more
        else:
            assert first["max_new_tokens"] == 20 and first["boxes"] == "free" and "task" not in first
        assert [one["choices"] for one in more] == ([["yes\n", "no\n"]] if form == "hateful-memes" else [])


@pytest.mark.timeout(1200)
def test_the_paper_protocol_gets_what_the_original_would(demo: TinyGPTV, tmp_path: Path) -> None:
    """Texts and rankings of compat.OriginalModel with its quirks, which the golden fixtures hold to the original."""
    original = OriginalModel(demo, quirks=True)
    for form in ("gqa", "iconqa", "hateful-memes"):
        benchmark, data = get_benchmark(form), read(form, tmp_path / form, 3, 0)
        run = evaluate(demo, benchmark, data, Settings(), tmp_path / "run" / form)
        assert len(run.answers) == 3 and json.dumps(run.model)
        for question, given in run.answers:
            candidates = benchmark.candidates(question)
            first, *_ = requests(demo, benchmark, question, Settings())
            prompt = first["prompt"].removeprefix(training_begin(demo)) if form == "iconqa" else first["prompt"]
            with Image.open(question.image) as picture:
                pixels = original.vis_processor(picture)[None]
            if benchmark.generates:
                assert [given.text] == original.generate(pixels, [prompt])
            if candidates:
                ranks = original.multi_select(pixels, [prompt], [[text] for text in candidates])[0]
                assert ranks == sorted(range(len(candidates)), key=lambda n: -given.choices[candidates[n]])
            if form == "iconqa":
                assert given.text == question.choices[ranks[0]]
