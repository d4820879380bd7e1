"""GQA (Hudson and Manning 2019, arXiv 1902.09506): one-word questions about scene graphs.

Files: the data set's own ``testdev_balanced_questions.json`` (an object of questions by id) or the list of {image,
question, answer} that the original's script reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import InvalidArgumentError
from ..benchmark import Benchmark, same, trimmed
from ..files import listed, parse_json
from ..question import DataSet, Given, Question
from ..records import Files, Record, blob, collect


def read(files: Files) -> DataSet:
    """The questions of either form; those without an answer (the test split) are skipped."""
    path, data = source = blob(files.data)
    content = parse_json(path, data)
    if isinstance(content, list):
        return collect(files, [source], listed(path, content), _of_list)
    if isinstance(content, dict):
        rows = ((f"{path}: question {key!r}", _keyed(key, value)) for key, value in content.items())
        return collect(files, [source], rows, _of_object)
    raise InvalidArgumentError(f"{path} holds {type(content).__name__}, expected GQA's object or a list of questions")


def _keyed(key: str, value: Any) -> Any:
    return {**value, "question_id": key} if isinstance(value, dict) else value


def _of_object(record: Record) -> Iterator[Question]:
    picture = record.picture(f"{record.id('imageId')}.jpg", f"{record.id('imageId')}.png")
    truth = record.text("answer")
    yield Question(record.id("question_id"), record.where, picture, record.text("question"), (truth,))


def _of_list(record: Record) -> Iterator[Question]:
    """This form has no ids: the question about the picture is one."""
    name, text = record.text("image"), record.text("question")
    id = record.id("question_id") if record.has("question_id") else f"{name}: {text}"
    yield Question(id, record.where, record.picture(name), text, (record.text("answer"),))


def strict(question: Question, given: Given) -> float:
    """1 if the answer is the true one."""
    return float(same(trimmed(given), question.truths[0]))


def paper(question: Question, given: Given) -> float:
    """1 if the untrimmed answer, in lower case, contains the true one as it stands in the file."""
    return float(question.truths[0] in given.text.lower())


GQA = Benchmark(
    "gqa",
    "GQA",
    read,
    "vqa",
    "[vqa] Based on the image, respond to this question with a short answer: {}",
    strict,
    paper,
    (
        "strict: the answer equals the true one but for case, white space and a full stop",
        "paper: the untrimmed answer contains the true one as a substring ('no' is in 'not')",
    ),
    column="GQA",
)
