"""OK-VQA (Marino et al. 2019, arXiv 1906.00067) and VQAv2 (Goyal et al. 2017, arXiv 1612.00837).

Files: the official pair, ``*_questions.json`` and ``*_annotations.json``. Pictures of COCO under any of its names. The
questions may also be the bare list that the original reads (``okvqa_test_split.json``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...compat.vqa import postprocess_okvqa, vqa_score
from ...errors import InvalidArgumentError
from ..benchmark import Benchmark, trimmed
from ..files import BadRecord, listed, parse_json, part
from ..question import DataSet, Given, Question
from ..records import Files, Record, blob, collect
from .vizwiz import answers_of

_SPLITS = ("val2014", "train2014", "test2015", "val2017", "train2017")


def read(files: Files) -> DataSet:
    """The questions that have annotations; the others are skipped."""
    if files.annotations is None:
        raise InvalidArgumentError("--annotations is missing, expected the *_annotations.json beside the questions")
    asked, answered = blob(files.data), blob(files.annotations)
    content = parse_json(*asked)
    questions = content if isinstance(content, list) else part(files.data, content, "questions")
    answers, problems = _answers(files, part(files.annotations, parse_json(*answered), "annotations"))
    split = content.get("data_subtype") if isinstance(content, dict) else None

    def parse(record: Record) -> Iterator[Question]:
        id = record.id("question_id")
        if id not in answers:
            raise BadRecord(problems.get(id, f"question_id {id} has no annotation in {files.annotations}"))
        picture = record.picture(*_names(record, split))
        yield Question(id, record.where, picture, record.text("question"), answers[id])

    name = "" if isinstance(content, list) else "questions"
    return collect(files, [asked, answered], listed(files.data, questions, name), parse)


def _answers(files: Files, annotations: Any) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """The answers by question id, and what is wrong with annotations that cannot be used, by the same."""
    found: dict[str, tuple[str, ...]] = {}
    problems: dict[str, str] = {}
    assert files.annotations is not None
    for where, value in listed(files.annotations, annotations, "annotations"):
        try:
            record = Record(value, where, files.images)
            id = record.id("question_id")
        except BadRecord:
            continue  # it belongs to no question: the question it was meant for has no annotation, and is named
        try:
            if id in found:
                raise BadRecord("a second annotation of the same question_id")
            found[id] = answers_of(record)
        except BadRecord as error:
            found.pop(id, None)
            problems[id] = f"{where}: {error}"
    return found, problems


def _names(record: Record, split: Any) -> list[str]:
    """The names that a COCO picture may have: as the original's script wants it, with its split, or in its folder."""
    number = record.id("image_id").zfill(12)
    splits = [split, *_SPLITS] if isinstance(split, str) else list(_SPLITS)
    old = [f"COCO_{one}_{number}.jpg" for one in splits]
    return [f"{number}.jpg", *old, *(f"{one}/{name}" for one, name in zip(splits, old, strict=True)), f"{number}.png"]


def strict(question: Question, given: Given) -> float:
    """The official evaluation: normalised answers, mean over the annotators of min(1, matches among the others / 3)."""
    return vqa_score(trimmed(given), question.truths)


def paper(question: Question, given: Given) -> float:
    """The same of what the original makes of an answer: lower case first, so that 'Assistant:' is never cut off."""
    return vqa_score(postprocess_okvqa(given.text), question.truths)


_WORDING = "[vqa] Based on the image, respond to this question with a short answer: {}"
_STRICT = "strict: VQA accuracy over the annotators, each left out once, answers normalised as the official script does"

OKVQA = Benchmark(
    "okvqa",
    "OK-VQA",
    read,
    "vqa",
    _WORDING,
    strict,
    paper,
    (_STRICT, "paper: the same evaluation, of answers that its script lower-cases before it cuts them"),
    measure="VQA accuracy",
    needs_annotations=True,
)
VQAV2 = Benchmark(
    "vqav2",
    "VQAv2",
    read,
    "vqa",
    _WORDING,
    strict,
    paper,
    (_STRICT, "paper: as for OK-VQA; the original has no script for VQAv2"),
    measure="VQA accuracy",
    needs_annotations=True,
)
