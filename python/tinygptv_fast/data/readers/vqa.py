"""Questions with short answers: VQAv2 and OK-VQA as their authors publish them, the LAVIS lists that the original
reads, A-OKVQA, GQA and OCR-VQA.

All are asked with one of two wordings under [vqa]. Where people gave several answers, each is drawn as often as it was
given (coco_vqa_datasets.py, answer_weight). Questions and answers go through the clean-up unless ``clean`` is false.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from .faults import BadRecord, Reason
from .items import Ids, Item
from .pictures import check_name_form, name_of
from .pools import VQA
from .reading import Reading
from .record import Ask, Record
from .texts import usable


@dataclass(frozen=True)
class ListSettings:
    """annotations: one json file; images: folders of pictures, searched in order; clean: texts through the clean-up."""

    annotations: Path
    images: tuple[Path, ...]
    clean: bool = True


@dataclass(frozen=True)
class PairSettings:
    """questions, annotations: the two json files of a split; image_name: ``{12}`` is the picture's id in 12 digits."""

    questions: Path
    annotations: Path
    images: tuple[Path, ...]
    image_name: str = "COCO_train2014_{12}.jpg"
    clean: bool = True

    def __post_init__(self) -> None:
        check_name_form(self.image_name, "image_name")


def read_pair(settings: PairSettings, reading: Reading) -> list[Record]:
    """``v2_OpenEnded_mscoco_train2014_questions.json`` and ``v2_mscoco_train2014_annotations.json``; OK-VQA's files are
    of the same form. An annotation without its question is a bad record."""
    asked = _questions(settings.questions, reading)
    path, ids = settings.annotations, Ids()

    def parse(item: Item, index: int) -> Iterator[Record]:
        number = ids.add(item, "question_id")
        if number not in asked:
            item.fail(f"question {number} is not in {settings.questions}")
        image = item.id("image_id")
        if asked[number][1] != image:
            item.fail(f"question {number} is about picture {asked[number][1]}, its annotation about {image}")
        answers = [answer.text("answer") for answer in item.items("answers")]
        picture = reading.picture(name_of(settings.image_name, image), item)
        ask = _ask(asked[number][0], answers, item, settings.clean)
        yield Record(str(path), index, (ask,), picture, "vqa")

    return reading.collect(path, reading.records(path, of="annotations"), parse)


def _questions(path: Path, reading: Reading) -> dict[str, tuple[str, str]]:
    """question_id → (question, image_id)."""
    out: dict[str, tuple[str, str]] = {}
    for index, data in enumerate(reading.records(path, of="questions")):
        with reading.sparing():
            item = Item(f"{path}: question {index}", data)
            number = item.id("question_id")
            if number in out:
                item.fail(f"its question_id {number} is that of an earlier question", Reason.DUPLICATE)
            out[number] = (item.text("question"), item.id("image_id"))
    return out


def read_lavis(settings: ListSettings, reading: Reading) -> list[Record]:
    """LAVIS's list of ``{"image", "question", "question_id", "answer": [...] or "..."}``: what the original reads for
    coco_vqa, ok_vqa and gqa. Of the picture's path the last part counts, as in the original."""
    return _from_list(reading.records(settings.annotations), settings, reading)


def read_aokvqa(settings: ListSettings, reading: Reading) -> list[Record]:
    """``aokvqa_v1p0_train.json``; the answer is drawn from ``direct_answers`` (aok_vqa_datasets.py). The picture is
    LAVIS's ``image`` where there is one, else COCO 2017's name of ``image_id``."""
    path, ids = settings.annotations, Ids()

    def parse(item: Item, index: int) -> Iterator[Record]:
        ids.add(item, "question_id")
        name = item.text("image").split("/")[-1] if "image" in item else name_of("{12}.jpg", item.id("image_id"))
        ask = _ask(item.text("question"), item.texts("direct_answers"), item, settings.clean)
        choices = tuple(item.texts("choices")) if "choices" in item else ()
        yield Record(str(path), index, (ask,), reading.picture(name, item), "vqa", choices)

    return reading.collect(path, reading.records(path), parse)


def read_gqa(settings: ListSettings, reading: Reading) -> list[Record]:
    """GQA as its authors publish it, ``{"id": {"imageId", "question", "answer"}}``, or LAVIS's list of it, which the
    original reads (gqa_datasets.py): told apart by whether the file holds an object or a list."""
    path = settings.annotations
    data = reading.json(path, keyed=True)
    if isinstance(data, list):
        return _from_list(data, settings, reading)
    if not isinstance(data, Mapping):
        raise DataError(f"{path} holds {type(data).__name__}, expected an object of questions or a list of them")

    def parse(item: Item, index: int) -> Iterator[Record]:
        picture = reading.picture(f"{item.id('imageId')}.jpg", item)
        ask = _ask(item.text("question"), [item.text("answer")], item, settings.clean)
        yield Record(str(path), index, (ask,), picture, "vqa")

    return reading.collect(path, list(data.values()), parse)


def read_ocrvqa(settings: ListSettings, reading: Reading) -> list[Record]:
    """``dataset.json`` of OCR-VQA: ``{id: {"imageURL", "questions": [...], "answers": [...], "split": 1}}``; the file
    of a picture is its id with the address's extension, split 1 is for training (ocrvqa_dataset.py)."""
    path = settings.annotations
    data = reading.object(path)
    names = list(data)

    def parse(item: Item, index: int) -> Iterator[Record]:
        if item.get("split") != 1:
            return
        questions, answers = item.texts("questions"), item.texts("answers")
        if len(questions) != len(answers):
            item.fail(f"it has {len(questions)} questions and {len(answers)} answers, expected as many")
        extension = Path(item.text("imageURL")).suffix
        picture = reading.picture(f"{names[index]}{extension}", item)
        for question, answer in zip(questions, answers, strict=True):
            with reading.sparing():
                yield Record(str(path), index, (_ask(question, [answer], item, settings.clean),), picture, "vqa")

    return reading.collect(path, list(data.values()), parse)


def _from_list(records: Sequence[Any], settings: ListSettings, reading: Reading) -> list[Record]:
    path, ids = settings.annotations, Ids()

    def parse(item: Item, index: int) -> Iterator[Record]:
        if "question_id" in item:
            ids.add(item, "question_id")
        given = item.get("answer")
        answers = [given] if isinstance(given, str) else item.texts("answer")
        picture = reading.picture(item.text("image").split("/")[-1], item)
        yield Record(str(path), index, (_ask(item.text("question"), answers, item, settings.clean),), picture, "vqa")

    return reading.collect(path, records, parse)


def _ask(question: str, answers: Sequence[str], item: Item, clean: bool) -> Ask:
    """One question with all its answers; empty ones among several do not count. Raises BadRecord."""
    asked = usable(question, "question", item.where, clean=clean)
    kept = []
    for answer in answers:
        try:
            kept.append(sys.intern(usable(answer, "answer", item.where, clean=clean)))  # a few thousand, over and over
        except BadRecord as bad:
            if bad.reason is not Reason.EMPTY or len(answers) == 1:
                raise
    if not kept:
        item.fail(f"none of its {len(answers)} answers holds text", Reason.EMPTY)
    return Ask(tuple(kept), (asked,), VQA)
