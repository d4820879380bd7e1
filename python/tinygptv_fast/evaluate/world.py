"""The drawn world in the files of each data set: what shows that an evaluation measures what it should.

Each exported question has a true answer that ``data.world.scoring.is_right`` judges without any of these files; the
strict scorer must come to the same verdict through them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..checkpoint.atomic import atomic_directory
from ..data.question import Question
from ..data.scoring import read_boxes
from ..data.world.asking import KINDS
from ..data.world.drawing import canvas, draw
from ..data.world.sampler import ExamItem, exam
from ..data.world.scene import Scene
from ..errors import InvalidArgumentError
from ..processing.boxes import BINS

SIDE = 384  # pixels of a picture's longer side
PICTURES = "images"
MAX_COUNT = 20_000
_ANNOTATORS = 10
_WORDS = (
    "colour", "shape", "size", "texture", "count", "exist", "comparison", "relation", "side", "position", "word",
    "number",
)  # fmt: skip
_CLOSED = ("colour", "shape", "size", "texture", "count", "side", "position")  # their groups are all their answers


@dataclass(frozen=True)
class Exported:
    """One question as it was written: the id that the reader of its format gives it, its picture's name, what it is."""

    id: str
    picture: str
    item: ExamItem

    @property
    def question(self) -> Question:
        return self.item.question

    @property
    def size(self) -> tuple[int, int]:
        return canvas(self.item.scene, SIDE)


@dataclass(frozen=True)
class Form:
    """A data set's form. kinds: of questions that fit it. picture: a picture's name by its number, below PICTURES.
    id: what the reader calls a question, from its number, its picture's name and itself. files: contents by name."""

    kinds: tuple[str, ...]
    picture: Callable[[int], str]
    id: Callable[[int, str, Question], str]
    files: Callable[[Sequence[Exported]], Mapping[str, str]]


def exported(form: str, count: int, seed: int = 0) -> list[Exported]:
    """``count`` questions in the form of data set ``form``, the same for the same arguments; kinds take turns.

    Raises InvalidArgumentError for an unknown form and a count out of range.
    """
    chosen = get_form(form)
    if not 1 <= count <= MAX_COUNT:
        raise InvalidArgumentError(f"count is {count}, expected 1..{MAX_COUNT}")
    each = -(-count // len(chosen.kinds))
    items = exam(seed, chosen.kinds, each)
    order = [items[kind * each + index] for index in range(each) for kind in range(len(chosen.kinds))][:count]
    out = []
    for number, item in enumerate(order):
        name = chosen.picture(number)
        out.append(Exported(chosen.id(number, name, item.question), name, item))
    return out


def get_form(form: str) -> Form:
    """The form of this data set. Raises InvalidArgumentError listing the names."""
    if form not in FORMS:
        raise InvalidArgumentError(f"format is {form!r}, expected one of {', '.join(FORMS)}")
    return FORMS[form]


def export_world(
    form: str,
    out: Path,
    count: int,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Path]:
    """Write the questions of ``exported`` and their pictures to a new directory, whole or not at all.

    Returns where things lie: "data", "images", and "annotations" of sets that keep answers apart. report: called with
    (pictures drawn, all). Raises InvalidArgumentError if ``out`` exists.
    """
    chosen = get_form(form)
    if out.exists():
        raise InvalidArgumentError(f"--out is {out}, which exists; expected a new directory")
    questions = exported(form, count, seed)
    files = chosen.files(questions)
    with atomic_directory(out, overwrite=False) as folder:
        for done, one in enumerate(questions, 1):
            path = folder / PICTURES / one.picture
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(one.item.scene, path.suffix))
            report(done, len(questions))
        for name, content in files.items():
            (folder / name).write_text(content, encoding="utf-8")
    data, *annotations = files
    found = {"data": out / data, "images": out / PICTURES}
    return found | ({"annotations": out / annotations[0]} if annotations else {})


def encode(scene: Scene, suffix: str) -> bytes:
    """The scene as a picture file: PNG, or JPEG of high quality where the data set has such."""
    data = io.BytesIO()
    picture = draw(scene, SIDE)
    if suffix == ".png":
        picture.save(data, "PNG")
    else:
        picture.save(data, "JPEG", quality=95, subsampling=0)
    return data.getvalue()


# -- the files of each form --------------------------------------------------------------------------------------------
def _gqa(questions: Sequence[Exported]) -> dict[str, str]:
    rows = {
        one.id: {
            "question": one.question.prompt,
            "answer": one.question.answer,
            "imageId": Path(one.picture).stem,
            "isBalanced": True,
        }
        for one in questions
    }
    return {"testdev_balanced_questions.json": _json(rows)}


def _vsr(questions: Sequence[Exported]) -> dict[str, str]:
    rows = [
        {"image": one.picture, "caption": one.question.prompt, "label": _label(one), "relation": ""}
        for one in questions
    ]
    return {"test.jsonl": _lines(rows)}


def _iconqa(questions: Sequence[Exported]) -> dict[str, str]:
    rows = {}
    for one in questions:
        choices = list(KINDS[one.question.kind].groups)
        rows[one.id] = {
            "question": one.question.prompt,
            "choices": choices,
            "answer": choices.index(one.question.answer),
            "ques_type": "choose_txt",
        }
    return {"problems.json": _json(rows)}


def _vizwiz(questions: Sequence[Exported]) -> dict[str, str]:
    rows = [
        {
            "image": one.picture,
            "question": one.question.prompt,
            "answers": [{"answer": one.question.answer, "answer_confidence": "yes"}] * _ANNOTATORS,
            "answer_type": "other",
            "answerable": 1,
        }
        for one in questions
    ]
    return {"val.json": _json(rows)}


def _hateful_memes(questions: Sequence[Exported]) -> dict[str, str]:
    rows = [
        {"id": int(one.id), "img": one.picture, "label": _label(one), "text": one.question.prompt} for one in questions
    ]
    return {"dev.jsonl": _lines(rows)}


def _vqa(prefix: str, questions: Sequence[Exported]) -> dict[str, str]:
    asked = [
        {"image_id": int(one.id), "question": one.question.prompt, "question_id": int(one.id)} for one in questions
    ]
    answered = []
    for one in questions:
        given = {"answer": one.question.answer, "raw_answer": one.question.answer, "answer_confidence": "yes"}
        answers = [{**given, "answer_id": number} for number in range(1, _ANNOTATORS + 1)]
        answered.append({"image_id": int(one.id), "question_id": int(one.id), "answers": answers})
    head = {"data_type": "mscoco", "data_subtype": "val2014"}
    return {
        f"{prefix}OpenEnded_mscoco_val2014_questions.json": _json({**head, "questions": asked}),
        f"{prefix}mscoco_val2014_annotations.json": _json({**head, "annotations": answered}),
    }


def _refcoco(name: str, questions: Sequence[Exported]) -> dict[str, str]:
    rows = []
    for one in questions:
        width, height = one.size
        x1, y1, x2, y2 = read_boxes(one.question.answer)[0]
        across, down = width / BINS, height / BINS
        rows.append(
            {
                "img_id": Path(one.picture).stem,
                "sents": one.question.prompt,
                "bbox": [x1 * across, y1 * down, (x2 - x1) * across, (y2 - y1) * down],
                "width": width,
                "height": height,
            }
        )
    return {f"{name}_val.json": _json(rows)}


def _captions(questions: Sequence[Exported]) -> dict[str, str]:
    images = [
        {"id": int(one.id), "file_name": one.picture, "width": one.size[0], "height": one.size[1]} for one in questions
    ]
    captions = [{"id": int(one.id), "image_id": int(one.id), "caption": one.question.answer} for one in questions]
    return {"captions_val2014.json": _json({"images": images, "annotations": captions})}


def _label(one: Exported) -> int:
    return int(one.question.answer == "yes")


def _json(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"


def _lines(rows: Sequence[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _by_number(number: int, picture: str, question: Question) -> str:
    del picture, question
    return str(number)


def _by_text(number: int, picture: str, question: Question) -> str:
    del number
    return f"{picture}: {question.prompt}"


def _coco(split: str, number: int) -> str:
    return f"COCO_{split}_{number:012d}.jpg"


_VAL = partial(_coco, "val2014")
_TRAIN = partial(_coco, "train2014")


def _of_refcoco(name: str) -> Form:
    def id(number: int, picture: str, question: Question) -> str:
        return f"{Path(picture).stem}/0"

    return Form(("refer",), _TRAIN, id, partial(_refcoco, name))


FORMS: dict[str, Form] = {
    "gqa": Form(_WORDS, lambda number: f"{number}.jpg", _by_number, _gqa),
    "vsr": Form(("statement",), lambda number: f"{number:012d}.jpg", _by_text, _vsr),
    "iconqa": Form(_CLOSED, lambda number: f"{number}/image.png", _by_number, _iconqa),
    "vizwiz": Form(_WORDS, lambda number: f"VizWiz_val_{number:08d}.jpg", _by_text, _vizwiz),
    "hateful-memes": Form(("exist", "relation"), lambda number: f"img/{number:05d}.png", _by_number, _hateful_memes),
    "okvqa": Form(_WORDS, _VAL, _by_number, partial(_vqa, "")),
    "vqav2": Form(_WORDS, _VAL, _by_number, partial(_vqa, "v2_")),
    **{name: _of_refcoco(name) for name in ("refcoco", "refcoco+", "refcocog")},
    "captions": Form(("caption",), _VAL, _by_number, _captions),
}
