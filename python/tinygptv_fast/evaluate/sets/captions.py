"""Captions in COCO's form (Chen et al. 2015, arXiv 1504.00325).

Files: the official ``captions_val2014.json`` (an object with images and annotations), or the list of {image, image_id,
caption} of the Karpathy split, where records of one picture are put together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...data.judging import is_accepted
from ..benchmark import Benchmark, Scored, Whole, trimmed
from ..cider import check_available, cider
from ..files import BadRecord, listed, parse_json, part
from ..question import DataSet, Given, Question
from ..records import Files, Record, blob, collect


def read(files: Files) -> DataSet:
    """One question a picture, with all its captions. Pictures without a caption are skipped."""
    path, data = source = blob(files.data)
    content = parse_json(path, data)
    if isinstance(content, list):
        return collect(files, [source], _grouped(path, content), _of_list)
    captions = _captions(files, part(path, content, "annotations"))

    def parse(record: Record) -> Iterator[Question]:
        id, name = record.id("id"), record.text("file_name")
        if id not in captions:
            raise BadRecord("it has no caption that can be used")
        yield Question(id, record.where, record.picture(name, f"val2014/{name}"), "", captions[id])

    return collect(files, [source], listed(path, part(path, content, "images"), "images"), parse)


def _captions(files: Files, annotations: Any) -> dict[str, tuple[str, ...]]:
    """The captions by picture. A bad annotation takes the captions of its picture with it if it names one: scores
    against fewer references would be other scores."""
    found: dict[str, list[str]] = {}
    spoilt: set[str] = set()
    for where, value in listed(files.data, annotations, "annotations"):
        id = None
        try:
            record = Record(value, where, files.images)
            id = record.id("image_id")
            found.setdefault(id, []).append(record.text("caption"))
        except BadRecord:
            spoilt |= {id} if id is not None else set()
    return {id: tuple(texts) for id, texts in found.items() if id not in spoilt}


def _grouped(path: Any, content: list[Any]) -> Iterator[tuple[str, Any]]:
    """Records of the list form, those of the same picture put together under the first."""
    groups: dict[str, dict[str, Any]] = {}
    out: list[tuple[str, Any]] = []
    for where, value in listed(path, content):
        captions = value.get("caption") if isinstance(value, dict) else None
        if not isinstance(value, dict) or not isinstance(value.get("image"), str) or captions is None:
            out.append((where, value))
            continue
        name = value["image"]
        if name not in groups:
            groups[name] = {**value, "caption": []}
            out.append((where, groups[name]))
        groups[name]["caption"] += captions if isinstance(captions, list) else [captions]
    yield from out


def _of_list(record: Record) -> Iterator[Question]:
    name = record.text("image")
    picture = record.picture(name, name.split("/")[-1])
    id = record.id("image_id") if record.has("image_id") else name
    yield Question(id, record.where, picture, "", record.texts("caption"))


def strict(question: Question, given: Given) -> float:
    """1 if the caption names the same things as one of the references, in any order."""
    return float(is_accepted(trimmed(given), question.truths, "caption"))


def _prepare(scored: Scored) -> Callable[[np.ndarray], float | None]:
    """The mean of the captions' scores; resampling keeps the corpus that n-grams are weighed by."""
    said = {question.id: trimmed(given) for question, given in scored}
    found = cider(said, {question.id: question.truths for question, _ in scored})
    values = np.array([found[question.id] for question, _ in scored])
    return lambda chosen: float(values[chosen].mean())


CAPTIONS = Benchmark(
    "captions",
    "COCO captions",
    read,
    "caption",
    "[caption] please describe this image?",
    strict,
    None,
    (
        "strict: CIDEr-D against all captions of the picture; 'same things': it names what one of them names",
        "paper: the original's scripts score no captions",
    ),
    measure="same things",
    whole=(Whole("CIDEr", _prepare),),
    limit=50,
    needs=check_available,
)
