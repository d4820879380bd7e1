"""Data of one's own: LLaVA conversations, VQA triples or COCO boxes, told apart by what is in the file.

Everything is checked before training starts: an error names the file and the record.
"""

from __future__ import annotations

import collections
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from PIL import Image

from ...errors import InvalidArgumentError
from ...processing.boxes import format_box, parse_boxes
from ...processing.prompt import TASKS
from .examples import Example, Turn

FORMS = (
    "a list of {'image', 'conversations': [{'from', 'value'}, ...]} (LLaVA), a list of {'image', 'question', 'answer'} "
    "(VQA; also 'task', several answers, 'choices'), or an object with 'images', 'annotations' and 'categories' (COCO)"
)
_MARK = re.compile(r"\s*<image>\s*")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
_SLACK = 1.0  # pixels by which COCO's own boxes pass the picture's edge


@dataclass(frozen=True)
class DataFile:
    """What a file held. kind: "llava", "vqa" or "coco". digest: of the file and its pictures' names and sizes."""

    path: Path
    kind: str
    examples: tuple[Example, ...]
    digest: str


def read_examples(path: Path, images: Path | None = None) -> DataFile:
    """The examples in json file ``path``; pictures are looked for in ``images``, by default the file's folder.

    Raises InvalidArgumentError naming the file and the record for anything that cannot be learnt from.
    """
    try:
        raw = path.read_bytes()
        data = json.loads(raw)
    except OSError as error:
        raise InvalidArgumentError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InvalidArgumentError(f"{path} is not json: {error}") from error
    reader = _Reader(path, images if images is not None else path.parent)
    kind = _kind(path, data)
    examples = getattr(reader, kind)(data)
    if not examples:
        raise InvalidArgumentError(f"{path} holds no examples, expected at least one")
    digest = hashlib.sha256(raw)
    for name, size in sorted(reader.sizes.items()):
        digest.update(f"{Path(name).name} {size}\n".encode())
    return DataFile(path, kind, tuple(examples), digest.hexdigest())


def _kind(path: Path, data: Any) -> str:
    if isinstance(data, Mapping) and {"images", "annotations", "categories"} <= set(data):
        return "coco"
    if isinstance(data, list):
        if not data:
            raise InvalidArgumentError(f"{path} is an empty list, expected {FORMS}")
        first = data[0]
        if isinstance(first, Mapping) and "conversations" in first:
            return "llava"
        if isinstance(first, Mapping) and "question" in first:
            return "vqa"
    raise InvalidArgumentError(f"{path} is of no known form, expected {FORMS}")


class _Reader:
    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self.folder = path, folder
        self.sizes: dict[str, int] = {}
        self._pixels: dict[str, tuple[int, int]] = {}

    # -- the three forms -------------------------------------------------------------------------------------------

    def llava(self, data: list[Any]) -> list[Example]:
        out = []
        for index, record in enumerate(data):
            where = f"{self.path}: record {index}"
            turns = self._field(record, "conversations", list, where)
            images = self._images(record, where)
            out.append(Example(self._conversation(turns, len(images), where), images, where=where))
        return out

    def vqa(self, data: list[Any]) -> list[Example]:
        out = []
        for index, record in enumerate(data):
            where = f"{self.path}: record {index}"
            question = _MARK.sub(" ", self._field(record, "question", str, where)).strip()
            if not question:
                self._fail(where, "its question is empty, expected text")
            task = record.get("task")
            if task is not None and task not in TASKS:
                self._fail(where, f"its task is {task!r}, expected one of {', '.join(map(repr, TASKS))}")
            given = record.get("answer")
            answer = self._answer(given, where)
            several = given if isinstance(given, list) else [answer]
            accepted = tuple(dict.fromkeys(filter(None, map(str.strip, several))))
            choices = self._choices(record, accepted, where)
            out.append(Example((Turn(question, answer, accepted),), self._images(record, where), task, where, choices))
        return out

    def coco(self, data: Mapping[str, Any]) -> list[Example]:
        """For every category in a picture one [detection] question and, where it is there once, one [refer]."""
        for name in ("images", "annotations", "categories"):
            if not isinstance(data[name], list):
                self._fail(str(self.path), f"{name} is {type(data[name]).__name__}, expected a list")
        names = self._by_id(data["categories"], "categories", "name")
        files = self._by_id(data["images"], "images", "file_name")
        found: dict[Any, dict[str, list[str]]] = collections.defaultdict(lambda: collections.defaultdict(list))
        for index, record in enumerate(data["annotations"]):
            where = f"{self.path}: annotations[{index}]"
            image = self._field(record, "image_id", None, where)
            category = self._field(record, "category_id", None, where)
            if image not in files or category not in names:
                self._fail(where, f"image_id {image!r} or category_id {category!r} is not listed in the file")
            picture = self._picture(files[image], where)
            found[image][names[category]].append(self._box(record, picture, where))
        out: list[Example] = []
        for image, boxes in found.items():
            for name, each in boxes.items():
                out += self._questions(self._picture(files[image], str(self.path)), name, each, len(out))
        return out

    def _questions(self, picture: Path, name: str, boxes: list[str], number: int) -> list[Example]:
        where = f"{self.path}: {picture.name}, {name!r}"
        listed = Turn(name, f"<p>{name}</p>" + "<delim>".join(boxes))
        out = [Example((listed,), (picture,), "detection", where)]
        if len(boxes) == 1:
            wordings = TASKS["refer"].training
            question = wordings[number % len(wordings)].replace("{}", name)
            out.append(Example((Turn(question, boxes[0]),), (picture,), "refer", where))
        return out

    # -- their parts -----------------------------------------------------------------------------------------------

    def _conversation(self, turns: list[Any], images: int, where: str) -> tuple[Turn, ...]:
        texts = []
        for number, turn in enumerate(turns):
            part = f"{where}: conversations[{number}]"
            role = _ROLES.get(str(self._field(turn, "from", str, part)))
            expected = ("user", "assistant")[number % 2]
            if role != expected:
                what = "'human'" if expected == "user" else "'gpt'"
                self._fail(part, f"it is from {turn['from']!r}, expected {what}: they alternate, 'human' first")
            text = self._field(turn, "value", str, part)
            marks = len(_MARK.findall(text))
            if marks and (number or marks != images):
                self._fail(part, f"it has {marks} <image>, expected {images}, in the first question alone")
            texts.append(_MARK.sub(" ", text).strip() if expected == "user" else self._answer(text, part))
            if not texts[-1]:
                self._fail(part, "the question is empty, expected text")
        if not texts or len(texts) % 2:
            self._fail(where, f"it has {len(texts)} turns, expected questions and answers in pairs")
        return tuple(Turn(q, a) for q, a in zip(texts[::2], texts[1::2], strict=True))

    def _answer(self, value: Any, where: str) -> str:
        """Text, or the most frequent of a list of texts. Boxes in it must be boxes inside the picture."""
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            value = collections.Counter(value).most_common(1)[0][0]
        if not isinstance(value, str):
            self._fail(where, f"its answer is {value!r}, expected text")
        answer: str = value.strip()
        if not answer:
            self._fail(where, "its answer is empty, expected text")
        dropped = parse_boxes(answer, 100, 100).dropped
        if dropped:
            self._fail(where, f"its answer has the box {dropped[0].text!r}: {dropped[0].reason}")
        return answer

    def _choices(self, record: Mapping[str, Any], accepted: tuple[str, ...], where: str) -> tuple[str, ...]:
        """The texts among which to choose, of which one at least is accepted; () where the record has none."""
        value = record.get("choices")
        if value is None:
            return ()
        if not isinstance(value, list) or len(value) < 2 or not all(isinstance(c, str) and c.strip() for c in value):
            self._fail(where, f"its choices are {str(value)[:60]!r}, expected a list of two texts or more")
        choices = tuple(dict.fromkeys(choice.strip() for choice in value))
        if not set(accepted) & set(choices):
            self._fail(where, f"its choices {str(value)[:60]!r} hold no accepted answer, expected one at least")
        return choices

    def _images(self, record: Mapping[str, Any], where: str) -> tuple[Path, ...]:
        value = record.get("image")
        if value is None:
            return ()
        names = value if isinstance(value, list) else [value]
        if not all(isinstance(name, str) and name for name in names):
            self._fail(where, f"its image is {value!r}, expected a file name or a list of them")
        return tuple(self._picture(name, where) for name in names)

    def _picture(self, name: str, where: str) -> Path:
        path = self.folder / name
        key = str(path)
        if key not in self._pixels:
            try:
                with Image.open(path) as opened:  # the header only
                    self._pixels[key] = opened.size
                self.sizes[key] = path.stat().st_size
            except FileNotFoundError:
                self._fail(where, f"its picture {path} does not exist")
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                self._fail(where, f"its picture {path} cannot be read: {error}")
        return path

    def _box(self, record: Mapping[str, Any], picture: Path, where: str) -> str:
        """The text of a COCO box ``[x, y, width, height]`` in pixels."""
        box = record.get("bbox")
        good = isinstance(box, Sequence) and not isinstance(box, str) and len(box) == 4
        if not good or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in box or ()):
            self._fail(where, f"its bbox is {box!r}, expected [x, y, width, height] in pixels")
        assert isinstance(box, Sequence)
        x, y, w, h = map(float, box)
        width, height = self._pixels[str(picture)]
        if w <= 0 or h <= 0 or x < -_SLACK or y < -_SLACK or x + w > width + _SLACK or y + h > height + _SLACK:
            self._fail(where, f"its bbox {list(box)} is not inside the picture of {width}x{height} pixels")
        inside = (max(0.0, x), max(0.0, y), min(float(width), x + w), min(float(height), y + h))
        return format_box(inside, width, height)

    def _by_id(self, records: list[Any], part: str, field: str) -> dict[Any, str]:
        out = {}
        for index, record in enumerate(records):
            where = f"{self.path}: {part}[{index}]"
            out[self._field(record, "id", None, where)] = self._field(record, field, str, where)
        return out

    def _field(self, record: Any, name: str, kind: type | None, where: str) -> Any:
        if not isinstance(record, Mapping):
            self._fail(where, f"it is {type(record).__name__}, expected a json object")
        if name not in record:
            self._fail(where, f"it has no {name!r}")
        if kind is not None and not isinstance(record[name], kind):
            self._fail(where, f"its {name} is {type(record[name]).__name__}, expected {kind.__name__}")
        return record[name]

    def _fail(self, where: str, what: str) -> NoReturn:
        raise InvalidArgumentError(f"{where}: {what}")
