"""Many pictures, many questions, one json line each, in a file that an interrupted run goes on with."""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..errors import ImageError, InvalidArgumentError
from .models import note
from .output import SCHEMA_VERSION, progress
from .run import one_line

if TYPE_CHECKING:
    from ..generate import Answer, TinyGPTV

TOGETHER = 8  # answers decoded together; an interrupt loses at most so many
_WILD = frozenset("*?[")


@dataclass(frozen=True)
class Asked:
    """One question about one picture file."""

    image: str
    question: str


def expand(words: Sequence[str]) -> list[str]:
    """Picture files: patterns (for shells that leave them, and for more files than a shell takes) become their files in
    order of name; a file of that very name is no pattern. Raises InvalidArgumentError for a pattern without files."""
    out: list[str] = []
    for word in words:
        if not _WILD & set(word) or Path(word).exists():
            out.append(word)
            continue
        found = sorted(name for name in glob.glob(word, recursive=True) if Path(name).is_file())
        if not found:
            raise InvalidArgumentError(f"image is {word!r}, which matches no file")
        out += found
    return list(dict.fromkeys(out))


def is_batch(words: Sequence[str], questions: Sequence[str], out: Path | None) -> bool:
    """Whether so many words mean json lines: several pictures or questions, a pattern, or a file for the answers."""
    wild = any(_WILD & set(word) and not Path(word).exists() for word in words)
    return wild or out is not None or len(words) > 1 or len(questions) > 1


def check_out(out: Path | None, option: str = "--out") -> None:
    """Raise unless ``out`` could be written: before a model is loaded."""
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        what = "which is a directory" if out.is_dir() else f"but {out.parent} is not a directory"
        raise InvalidArgumentError(f"{option} is {out}, {what}")


def read_answers(out: Path, model_id: str, settings: dict[str, Any]) -> set[Asked]:
    """What the file has answers to already. A last line cut short and lines with errors are taken out of the file, so
    that they are asked again. Raises InvalidArgumentError for a file of something else, of another model or of other
    settings."""
    if not out.exists():
        return set()
    lines = out.read_text("utf-8").splitlines(keepends=True)
    kept, done = [], set()
    for number, line in enumerate(lines, 1):
        row = _row(line)
        if row is None:
            if number == len(lines) and not line.endswith("\n"):
                continue  # a line that the interrupted run had begun
            raise InvalidArgumentError(f"--out is {out}, whose line {number} is no answer; expected a new file")
        if row["model"] != model_id or row["settings"] != settings:
            what = "another model" if row["model"] != model_id else "other settings"
            raise InvalidArgumentError(f"--out is {out}, which holds answers of {what}; expected a new file")
        if "error" not in row:
            kept.append(line if line.endswith("\n") else line + "\n")
            done.add(Asked(row["image"], row["question"]))
    if kept != lines:
        partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
        partial.write_text("".join(kept), "utf-8")
        os.replace(partial, out)
    return done


def ask_all(
    model: TinyGPTV,
    pictures: Sequence[str],
    questions: Sequence[str],
    settings: dict[str, Any],
    out: Path | None,
    quiet: bool,
) -> None:
    """Ask every question about every picture and write a line for each, into ``out`` or on stdout.

    A picture that cannot be read gets a line with ``error``; once all are through, InvalidArgumentError counts them.
    Ctrl-C keeps every line written so far.
    """
    model_id = model.info["model_id"]
    asked = [Asked(picture, question) for picture in pictures for question in questions]
    done = set() if out is None else read_answers(out, model_id, settings)
    todo = [one for one in asked if one not in done]
    if len(todo) < len(asked):
        note(f"{len(asked) - len(todo)} of {len(asked)} answered before", quiet=quiet)
    written, failed = 0, []
    try:
        with _open(out) as write, progress(f"{len(todo)} questions", quiet=quiet) as report:
            for chunk in _chunks(todo):
                for one, answer in zip(chunk, _answers(model, chunk, settings), strict=True):
                    write(_line(one, answer, model_id, settings))
                    if isinstance(answer, Exception):
                        failed.append(one_line(answer))
                written += len(chunk)
                report(written, len(todo), chunk[-1].image)
    except KeyboardInterrupt:
        more = "" if out is None else "; the same command goes on with the rest"
        note(f"tinygptv: {len(asked) - len(todo) + written} of {len(asked)} answered{more}", quiet=quiet)
        raise
    if failed:
        raise InvalidArgumentError(f"{len(failed)} of {len(asked)} questions have no answer, the first: {failed[0]}")


def _answers(model: TinyGPTV, chunk: Sequence[Asked], settings: dict[str, Any]) -> list[Answer | Exception]:
    requests = [{"image": one.image, "prompt": one.question, **settings} for one in chunk]
    answers = model.generate_batch(requests, on_error="return")
    for answer in answers:
        if isinstance(answer, Exception) and not isinstance(answer, (ImageError, OSError)):
            raise answer  # the question or the settings, which are wrong for every picture
    return answers


def _line(one: Asked, answer: Answer | Exception, model_id: str, settings: dict[str, Any]) -> str:
    row: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": "answer",
        "image": one.image,
        "question": one.question,
        "model": model_id,
        "settings": settings,
    }
    row |= {"error": one_line(answer)} if isinstance(answer, Exception) else answer.to_dict()
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    keys = {"image", "question", "model", "settings"}
    return row if isinstance(row, dict) and row.get("kind") == "answer" and keys <= set(row) else None


class _open:
    """A function that writes one line and sees it on disk; into ``out``, behind what is there, or on stdout."""

    def __init__(self, out: Path | None) -> None:
        self._out = out
        self._file: TextIO = sys.stdout

    def __enter__(self) -> Callable[[str], None]:
        if self._out is not None:
            self._file = self._out.open("a", encoding="utf-8")
        return self._write

    def __exit__(self, *_: object) -> None:
        if self._out is not None:
            self._file.close()

    def _write(self, line: str) -> None:
        self._file.write(line)
        self._file.flush()
        if self._out is not None:
            os.fsync(self._file.fileno())


def _chunks(items: Sequence[Asked]) -> Iterator[Sequence[Asked]]:
    for begin in range(0, len(items), TOGETHER):
        yield items[begin : begin + TOGETHER]
