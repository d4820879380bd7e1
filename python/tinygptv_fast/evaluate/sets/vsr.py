"""VSR (Liu et al. 2023, arXiv 2205.00363): statements about where things are, true or false.

Files: the data set's own json lines ({image, caption, label, ...}); pictures of COCO 2017 in ``train2017``, ``val2017``
or in the folder itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...data.judging import plain
from ..benchmark import Benchmark, trimmed
from ..files import parse_lines
from ..question import DataSet, Given, Question
from ..records import Files, Record, blob, collect

_VERDICTS = {"true": 1, "yes": 1, "false": 0, "no": 0}


def read(files: Files) -> DataSet:
    """One statement a line. A statement about a picture is its own id."""
    path, data = source = blob(files.data)
    return collect(files, [source], parse_lines(path, data), _parse)


def _parse(record: Record) -> Iterator[Question]:
    name, text = record.text("image"), record.text("caption")
    picture = record.picture(f"train2017/{name}", f"val2017/{name}", name)
    yield Question(f"{name}: {text}", record.where, picture, text, label=record.label("label"))


def strict(question: Question, given: Given) -> float:
    """1 if the answer is the right one of true (or yes) and false (or no), and nothing else."""
    return float(_VERDICTS.get(plain(trimmed(given))) == question.label)


def paper(question: Question, given: Given) -> float:
    """How many of 'true' and 'yes' (or 'false' and 'no') the untrimmed answer contains: up to 2 an item."""
    words = ("true", "yes") if question.label else ("false", "no")
    return float(sum(word in given.text.lower() for word in words))


VSR = Benchmark(
    "vsr",
    "VSR",
    read,
    "vqa",
    "[vqa] Based on the image, is this statement true or false? {}",
    strict,
    paper,
    (
        "strict: the answer is true or yes, false or no, and nothing else",
        "paper: the untrimmed answer contains the word; true and yes (false and no) count 1 each, so up to 2 an item",
    ),
    column="VSR",
)
