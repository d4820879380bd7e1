"""RefCOCO, RefCOCO+ (Yu et al. 2016, arXiv 1608.00272) and RefCOCOg (Mao et al. 2016, arXiv 1511.02283).

Files: the json list that the original's script reads, {img_id, sents, bbox, height, width} a record. (The data set's
own ``refs(*).p`` are pickles, which are never read.) ``img_id`` begins with the 27 characters of COCO's file name.
``sents`` is a phrase, or a list of them, each a question of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ...compat.boxes import score_refcoco
from ...data.scoring import Quad as Box
from ...data.scoring import iou, read_boxes
from ...processing.boxes import BINS
from ..benchmark import Benchmark, trimmed
from ..files import bad, listed, parse_json
from ..question import DataSet, Given, Question, Target
from ..records import Files, Record, blob, collect

THRESHOLD = 0.5
_TIE = 1e-9  # what float arithmetic may take from an IoU of exactly one half
_NAME = 27  # characters of COCO_train2014_000000581857


def read(files: Files) -> DataSet:
    """One question a phrase. The original keeps the last record of each ``img_id`` and compares all answers with it."""
    path, data = source = blob(files.data)
    numbers: dict[str, int] = {}
    last: dict[str, Target] = {}
    of: dict[str, str] = {}

    def parse(record: Record) -> Iterator[Question]:
        image = record.text("img_id")
        target = Target(record.box("bbox"), record.size("width"), record.size("height"))
        sents = record.get("sents")
        phrases = record.texts("sents") if isinstance(sents, list) else (record.text("sents"),)
        picture = record.picture(f"{image[:_NAME]}.jpg", f"{image[:_NAME]}.png")
        last[image] = target
        for phrase in phrases:
            number = numbers[image] = numbers.get(image, -1) + 1
            of[f"{image}/{number}"] = image
            yield Question(f"{image}/{number}", record.where, picture, phrase, target=target)

    found = collect(files, [source], listed(path, parse_json(path, data)), parse)
    return replace(found, questions=tuple(replace(q, paper_target=last[of[q.id]]) for q in found.questions))


def answer_boxes(question: Question, given: Given) -> list[Box]:
    """The well-formed boxes of the answer in pixels; k is k hundredths of the side, as the original reads it."""
    target = _target(question.target)
    across, down = target.width / BINS, target.height / BINS
    boxes = read_boxes(trimmed(given))
    return [(x1 * across, y1 * down, x2 * across, y2 * down) for x1, y1, x2, y2 in boxes]


def strict(question: Question, given: Given) -> float:
    """1 if the answer has exactly one well-formed box and its IoU with the true one is at least one half."""
    found = answer_boxes(question, given)
    return float(len(found) == 1 and iou(found[0], _target(question.target).xyxy) >= THRESHOLD - _TIE)


def paper(question: Question, given: Given) -> float:
    """1 if the answer begins with a box, has no further number, and its IoU (+1 pixel a side) with the last record of
    the same ``img_id`` is above one half. Answers that begin otherwise are dropped, and count as misses."""
    target = _target(question.paper_target)
    score = score_refcoco(given.text, width=target.width, height=target.height, bbox_xywh=target.xywh)
    return float(score.accepted and score.hit)


def _target(target: Target | None) -> Target:
    return bad("it has no box") if target is None else target


def _benchmark(name: str, title: str) -> Benchmark:
    return Benchmark(
        name,
        title,
        read,
        "refer",
        "[refer] give me the location of {}",
        strict,
        paper,
        (
            "strict: one well-formed box with IoU >= 0.5",
            "paper: IoU > 0.5 with one pixel more a side, against the last record of the same img_id; an answer that "
            "does not begin with a box, or has a fifth number, is a miss; nothing is asked again",
        ),
        measure="accuracy at IoU 0.5",
    )


REFCOCO = _benchmark("refcoco", "RefCOCO")
REFCOCO_PLUS = _benchmark("refcoco+", "RefCOCO+")
REFCOCOG = _benchmark("refcocog", "RefCOCOg")
