"""The answers of a run in a file of json lines, one a question, that an interrupted run goes on with.

The first line says what the answers are of: model, data, settings. A line is on disk before the next batch is asked.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError
from .files import replace_file
from .question import Given

FILE = "answers.jsonl"
KIND, VERSION = "tinygptv_evaluation_answers", 1


class AnswerFile:
    """``path`` with the answers that are there already in ``known``, by question id.

    key: what the answers must be of, json-ready. ids: the questions there are. A last line cut short is taken out of
    the file. Raises InvalidArgumentError where the file is something else or holds answers of something else.
    """

    def __init__(self, path: Path, key: Mapping[str, Any], ids: frozenset[str]) -> None:
        self._path, self._key = path, dict(key)
        self.known: dict[str, Given] = {}
        self._begun = path.exists() and self._read(ids)

    def append(self, answers: Mapping[str, Given]) -> None:
        """All lines of a batch in one write, seen on disk."""
        lines = [_line(id, given) for id, given in answers.items()]
        if not lines:
            return
        if not self._begun:
            lines.insert(0, json.dumps({"kind": KIND, "version": VERSION, **self._key}) + "\n")
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write("".join(lines))
            handle.flush()
            os.fsync(handle.fileno())
        self._begun = True
        self.known.update(answers)

    def _read(self, ids: frozenset[str]) -> bool:
        """Fill ``known``; whether the file has its first line."""
        try:
            lines = self._path.read_text("ascii").splitlines(keepends=True)
        except UnicodeDecodeError:
            raise self._wrong("which is no file of evaluation answers") from None
        if lines and not lines[-1].endswith("\n"):  # the interrupted run had begun it
            lines.pop()
            replace_file(self._path, "".join(lines))
        if not lines:
            return False
        self._check_head(_parse(self._path, 1, lines[0]))
        for number, line in enumerate(lines[1:], 2):
            id, given = _read_line(self._path, number, line)
            if id not in ids or id in self.known:
                what = "an answer to no question of the data" if id not in ids else "a second answer to it"
                raise self._wrong(f"whose line {number}, of question {id!r}, is {what}")
            self.known[id] = given
        return True

    def _check_head(self, head: dict[str, Any]) -> None:
        if head.get("kind") != KIND or head.get("version") != VERSION:
            raise self._wrong("which is no file of evaluation answers")
        for name, value in self._key.items():
            if head.get(name) != value:
                raise self._wrong(f"which holds answers of other {name}")

    def _wrong(self, what: str) -> InvalidArgumentError:
        return InvalidArgumentError(f"answers is {self._path}, {what}; expected a new --out")


def _line(id: str, given: Given) -> str:
    row = {
        "id": id,
        "text": given.text,
        "choices": dict(given.choices),
        "words": given.words,
        "seconds": round(given.seconds, 6),
    }
    # ASCII, so that no line ends anywhere but at its end, and none is cut within a character
    return json.dumps(row, allow_nan=False) + "\n"


def _parse(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise InvalidArgumentError(f"answers is {path}, whose line {number} is no answer; expected a new --out")
    return row


def _read_line(path: Path, number: int, line: str) -> tuple[str, Given]:
    row = _parse(path, number, line)
    try:
        choices = {str(text): float(value) for text, value in row["choices"].items()}
        given = Given(row["text"], choices, float(row["seconds"]), int(row["words"]))
        good = isinstance(row["id"], str) and isinstance(row["text"], str)
        good = good and all(map(math.isfinite, (given.seconds, *choices.values())))
    except (AttributeError, KeyError, TypeError, ValueError):
        good = False
    if not good:
        raise InvalidArgumentError(f"answers is {path}, whose line {number} is no answer; expected a new --out")
    return row["id"], given
