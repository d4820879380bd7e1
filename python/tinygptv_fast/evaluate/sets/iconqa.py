"""IconQA, multi-text-choice (Lu et al. 2021, arXiv 2110.13214): the right one of some short texts.

Files: ``problems.json`` of the data set (an object of problems by id; those of another type are left out), or the list
of {image_id, question, choices, answer} that the original's script reads. ``answer`` is the index of the right choice,
or its text. The picture of problem X is ``X/image.png``, also in a folder below named choose_txt.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import InvalidArgumentError
from ..benchmark import Benchmark
from ..files import bad, listed, parse_json
from ..question import DataSet, Given, Question
from ..records import Files, Record, blob, collect

_TYPE = "choose_txt"
_JOINT = "_"  # what the original joins the choices with, and splits them at


def read(files: Files) -> DataSet:
    """The multi-text-choice problems of either form."""
    path, data = source = blob(files.data)
    content = parse_json(path, data)
    if isinstance(content, list):
        return collect(files, [source], listed(path, content), _parse)
    if not isinstance(content, dict):
        raise InvalidArgumentError(f"{path} holds {type(content).__name__}, expected IconQA's problems or a list")
    rows = ((f"{path}: problem {key!r}", _keyed(key, value)) for key, value in content.items() if _is_ours(value))
    return collect(files, [source], rows, _parse)


def _is_ours(value: Any) -> bool:
    return not isinstance(value, dict) or value.get("ques_type", _TYPE) == _TYPE


def _keyed(key: str, value: Any) -> Any:
    return {**value, "image_id": key} if isinstance(value, dict) else value


def _parse(record: Record) -> Iterator[Question]:
    folder = record.id("image_id")
    id = record.id("question_id") if record.has("question_id") else folder
    choices = record.texts("choices")
    if len(set(choices)) < len(choices) or len(choices) < 2:
        bad(f"its choices are {list(choices)[:4]}, expected two or more different texts")
    picture = record.picture(f"{folder}/image.png", f"{_TYPE}/{folder}/image.png")
    right = _right(record, choices)
    yield Question(id, record.where, picture, record.text("question"), (choices[right],), choices, right)


def _right(record: Record, choices: tuple[str, ...]) -> int:
    """The index of the right choice: the answer itself if it is an integer, else where its text stands."""
    answer = record.get("answer")
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    if isinstance(answer, str) and answer in choices:
        return choices.index(answer)
    return bad(f"its answer is {str(answer)[:60]!r}, expected one of its {len(choices)} choices or an index of them")


def splits(question: Question) -> tuple[str, ...]:
    """The candidates that the original ranks: a choice with an underscore in it becomes several."""
    return tuple(_JOINT.join(question.choices).split(_JOINT))


def candidates(question: Question) -> tuple[str, ...]:
    """All that either scorer needs the score of."""
    return tuple(dict.fromkeys(text for text in (*question.choices, *splits(question)) if text))


def best(texts: tuple[str, ...], given: Given) -> int:
    """The index of the candidate with the highest mean log-probability, the first of equal ones. An empty candidate,
    which only the original's splitting makes, is never the best."""
    return max(range(len(texts)), key=lambda index: given.choices.get(texts[index], float("-inf")))


def strict(question: Question, given: Given) -> float:
    """1 if the best of the choices is the right one."""
    return float(best(question.choices, given) == question.label)


def paper(question: Question, given: Given) -> float:
    """1 if the index of the best of the split choices is the right index."""
    return float(best(splits(question), given) == question.label)


ICONQA = Benchmark(
    "iconqa",
    "IconQA (multi-text-choice)",
    read,
    "vqa",
    "[vqa] Based on the image, respond to this question with a short answer: {}",
    strict,
    paper,
    (
        "strict: the choice with the highest mean log-probability of its tokens is the right one",
        "paper: the same after joining and splitting the choices at '_', as its script does",
    ),
    candidates=candidates,
    generates=False,
    column="IconVQ",
    template="train-stage3",
)
