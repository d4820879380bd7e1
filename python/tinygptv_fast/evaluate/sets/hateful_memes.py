"""Hateful Memes (Kiela et al. 2020, arXiv 2005.04790): is a picture with text on it hateful?

Files: the data set's own json lines ``dev.jsonl`` ({id, img, label, text}). Besides the answer, "yes" and "no" are
scored: the difference of their log-probabilities ranks the pictures for the area under the ROC curve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ...compat.vqa import postprocess_chat
from ...data.judging import plain
from ...processing.prompt import HATEFUL_MEMES as WORDING
from ..benchmark import Benchmark, Scored, Whole, trimmed
from ..files import parse_lines
from ..question import DataSet, Given, Question
from ..records import Files, Record, blob, collect
from ..statistics import auroc

_NO, _YES = "no", "yes"


def read(files: Files) -> DataSet:
    """One meme a line; those without a label (the test split) are skipped."""
    path, data = source = blob(files.data)
    return collect(files, [source], parse_lines(path, data), _parse)


def _parse(record: Record) -> Iterator[Question]:
    picture = record.picture(record.text("img"))
    yield Question(record.id("id"), record.where, picture, record.text("text"), label=record.label("label"))


def strict(question: Question, given: Given) -> float:
    """1 if the answer is the right one of yes and no, and nothing else."""
    return float(plain(trimmed(given)) == (_NO, _YES)[question.label or 0])


def paper(question: Question, given: Given) -> float:
    """The first of 'yes' and 'no' that the answer contains counts ('not sure' is no); anything else is wrong."""
    answer = postprocess_chat(given.text).lower()
    said = 1 if _YES in answer else 0 if _NO in answer else None
    return float(said == question.label)


def _prepare(scored: Scored) -> Callable[[np.ndarray], float | None]:
    ranks = np.array([given.choices[_YES] - given.choices[_NO] for _, given in scored])
    labels = np.array([question.label for question, _ in scored])
    return lambda chosen: auroc(ranks[chosen], labels[chosen])


HATEFUL_MEMES = Benchmark(
    "hateful-memes",
    "Hateful Memes",
    read,
    "vqa",
    WORDING,
    strict,
    paper,
    (
        "strict: the answer is yes or no and nothing else; AUROC of log p(yes) - log p(no), whatever was answered",
        "paper: the answer contains 'yes', else 'no' ('not sure' and 'unknown' are no); accuracy on dev alone",
    ),
    candidates=lambda question: (_YES, _NO),
    whole=(Whole("AUROC", _prepare),),
    column="HM",
)
