"""One record of a data set's file, read field by field; and the loop that skips and names what cannot be used."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError
from .files import BadRecord, read_bytes
from .question import DataSet, Quad, Question, Skipped

MAX_TEXT = 20_000  # characters of a question or an answer; the longest of any of these sets has some hundreds


@dataclass(frozen=True)
class Files:
    """Where a data set lies. data: the questions. images: the folder of the pictures. annotations: the answers, of sets
    that keep them in a file of their own."""

    data: Path
    images: Path
    annotations: Path | None = None


class Record:
    """A json object of a file, whose fields are checked when they are asked for; BadRecord says what is wrong."""

    def __init__(self, value: Any, where: str, images: Path) -> None:
        if isinstance(value, BadRecord):
            raise value
        if not isinstance(value, Mapping):
            raise BadRecord(f"it is {type(value).__name__}, expected a json object")
        self._value, self.where, self.images = value, where, images

    def has(self, name: str) -> bool:
        return name in self._value

    def get(self, name: str) -> Any:
        """The field's value, whatever it is."""
        if name not in self._value:
            raise BadRecord(f"it has no {name!r}")
        return self._value[name]

    def text(self, name: str, *, empty: bool = False) -> str:
        """A text field, stripped of nothing. ``empty``: whether it may be blank."""
        return self.check_text(self.get(name), f"its {name}", empty=empty)

    def check_text(self, value: Any, what: str, *, empty: bool = False) -> str:
        if not isinstance(value, str):
            raise BadRecord(f"{what} is {_short(value)}, expected text")
        if not value.strip() and not empty:
            raise BadRecord(f"{what} is empty, expected text")
        if len(value) > MAX_TEXT:
            raise BadRecord(f"{what} has {len(value)} characters, expected at most {MAX_TEXT}")
        return value

    def id(self, name: str) -> str:
        """An identifier: an integer, or text that is not blank."""
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, str)) or not str(value).strip():
            raise BadRecord(f"its {name} is {_short(value)}, expected an integer or text")
        return str(value)

    def label(self, name: str) -> int:
        """0 or 1."""
        value = self.get(name)
        if isinstance(value, bool) or value not in (0, 1):
            raise BadRecord(f"its {name} is {_short(value)}, expected 0 or 1")
        return int(value)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of at least one text."""
        value = self.get(name)
        if not isinstance(value, list) or not value:
            raise BadRecord(f"its {name} is {_short(value)}, expected a list of texts")
        return tuple(self.check_text(one, f"{name}[{index}]") for index, one in enumerate(value))

    def size(self, name: str) -> float:
        """A number of pixels above 0."""
        value = self.get(name)
        if not _finite(value) or value <= 0:
            raise BadRecord(f"its {name} is {_short(value)}, expected pixels > 0")
        return float(value)

    def box(self, name: str) -> Quad:
        """COCO's [left, top, width, height] in pixels."""
        value = self.get(name)
        if not isinstance(value, list) or len(value) != 4 or not all(map(_finite, value)):
            raise BadRecord(f"its {name} is {_short(value)}, expected [x, y, width, height] in pixels")
        x, y, w, h = map(float, value)
        if w <= 0 or h <= 0:
            raise BadRecord(f"its {name} is {_short(value)}, expected a width and a height > 0")
        return x, y, w, h

    def picture(self, *names: str) -> Path:
        """The first of these files below the folder of pictures that is there."""
        for name in names:
            if "\0" in name or os.path.isabs(name) or os.path.normpath(name).startswith(".."):
                raise BadRecord(f"its picture is {_short(name)}, expected a name inside the folder of pictures")
            path = self.images / name
            if path.is_file():
                return path
        raise BadRecord(f"its picture {self.images / names[0]} does not exist")


def collect(
    files: Files,
    blobs: Iterable[tuple[Path, bytes]],
    rows: Iterable[tuple[str, Any]],
    parse: Callable[[Record], Iterable[Question]],
) -> DataSet:
    """The questions that ``parse`` makes of the records in ``rows`` (where, value); bad records are named and skipped.

    blobs: the files as read, for the digest. Raises InvalidArgumentError if no record can be used.
    """
    questions: dict[str, Question] = {}
    skipped: list[Skipped] = []
    records = 0
    for where, value in rows:
        records += 1
        try:
            for question in parse(Record(value, where, files.images)):
                if question.id in questions:
                    raise BadRecord(f"its id {question.id!r} is that of {questions[question.id].where}, too")
                questions[question.id] = question
        except BadRecord as error:
            skipped.append(Skipped(where, str(error)))
    if not questions:
        first = f", the first: {skipped[0].where}: {skipped[0].why}" if skipped else ""
        raise InvalidArgumentError(f"{files.data} holds no question that can be asked, expected at least one{first}")
    names = tuple(path.name for path, _ in blobs)
    return DataSet(names, tuple(questions.values()), tuple(skipped), digest(blobs), records)


def digest(blobs: Iterable[tuple[Path, bytes]]) -> str:
    """sha256 of the bytes of all files, each with its length."""
    out = hashlib.sha256()
    for _, data in blobs:
        out.update(len(data).to_bytes(8, "little") + data)
    return out.hexdigest()


def blob(path: Path) -> tuple[Path, bytes]:
    """A file and its bytes."""
    return path, read_bytes(path)


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
