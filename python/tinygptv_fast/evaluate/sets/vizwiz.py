"""VizWiz-VQA (Gurari et al. 2018, arXiv 1802.08218): questions of blind people, ten answers each.

Files: the data set's own ``val.json``: a list of {image, question, answers: [{answer, answer_confidence}, ...]}.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...compat.vqa import postprocess_vizwiz, vizwiz_accuracy, vqa_score
from ..benchmark import Benchmark, trimmed
from ..files import bad, listed, parse_json
from ..question import DataSet, Given, Question
from ..records import Files, Record, blob, collect

_JOINT = "_"  # what the original joins the answers with, and splits them at


def read(files: Files) -> DataSet:
    """One question a record; the picture with the question is its id."""
    path, data = source = blob(files.data)
    return collect(files, [source], listed(path, parse_json(path, data)), _parse)


def _parse(record: Record) -> Iterator[Question]:
    name, text = record.text("image"), record.text("question")
    yield Question(f"{name}: {text}", record.where, record.picture(name), text, answers_of(record))


def answers_of(record: Record) -> tuple[str, ...]:
    """The ``answer`` of each of ``answers``. One may be empty: some people had nothing to say."""
    value = record.get("answers")
    if not isinstance(value, list) or not value:
        return bad(f"its answers are {str(value)[:60]!r}, expected a list of objects with 'answer'")
    found = [Record(one, record.where, record.images) for one in value]
    return tuple(one.text("answer", empty=True) for one in found)


def strict(question: Question, given: Given) -> float:
    """The official evaluation: normalised answers, mean over the annotators of min(1, matches among the others / 3)."""
    return vqa_score(trimmed(given), question.truths)


def paper(question: Question, given: Given) -> float:
    """A third for each answer that contains, or is contained in, what was said; an empty answer scores 1."""
    truths = _JOINT.join(question.truths).split(_JOINT)
    return vizwiz_accuracy(postprocess_vizwiz(given.text), truths)


VIZWIZ = Benchmark(
    "vizwiz",
    "VizWiz-VQA",
    read,
    "vqa",
    "[vqa] The question is '{}' Based on the image, answer the question with a single word or phrase. "
    "and reply 'unanswerable' when the provided information is insufficient",
    strict,
    paper,
    (
        "strict: VQA accuracy over the annotators, each left out once, answers normalised as the official script does",
        "paper: substring either way, a third each; an empty answer scores 1",
    ),
    measure="VQA accuracy",
    column="VizWiz",
)
