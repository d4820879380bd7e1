"""Files in and out: json of bounded size, and files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from ..errors import InvalidArgumentError

MAX_BYTES = 1 << 30  # VQAv2's largest file is about 0.4 GB
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"(lp", b"(dp")


class BadRecord(Exception):
    """One record cannot be used; the text says why. Never leaves this package: the record is skipped and counted."""


def read_bytes(path: Path) -> bytes:
    """The whole file. Raises InvalidArgumentError naming it if it cannot be read or is larger than MAX_BYTES."""
    try:
        with path.open("rb") as handle:
            data = handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidArgumentError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise InvalidArgumentError(f"{path} has more than {MAX_BYTES >> 20} MiB, expected an annotation file")
    if data.startswith(_PICKLES):
        raise InvalidArgumentError(f"{path} is a pickle, which is never read; expected the json form of the data set")
    return data


def parse_json(path: Path, data: bytes) -> Any:
    """The json value that a file holds. Raises InvalidArgumentError naming the file."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"{path} is not json: {_brief(error)}") from error


def parse_lines(path: Path, data: bytes) -> Iterator[tuple[str, Any]]:
    """(where, value) of each line that is not blank; the value of a line that is no json is a BadRecord."""
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            yield where, json.loads(line)
        except (ValueError, RecursionError) as error:
            yield where, BadRecord(f"it is not json: {_brief(error)}")


def listed(path: Path, value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(where, record) of each element of a list in a file. Raises InvalidArgumentError if ``value`` is no list."""
    if not isinstance(value, list):
        what = f"{name} is" if name else "it holds"
        raise InvalidArgumentError(f"{path}: {what} {type(value).__name__}, expected a list of records")
    for index, record in enumerate(value):
        yield f"{path}: {name or 'record'}[{index}]" if name else f"{path}: record {index}", record


def part(path: Path, value: Any, name: str) -> Any:
    """``value[name]`` of a json object. Raises InvalidArgumentError naming the file."""
    if not isinstance(value, dict) or name not in value:
        raise InvalidArgumentError(f"{path} has no {name!r}, expected a json object with it")
    return value[name]


def bad(why: str) -> NoReturn:
    """Raise BadRecord: for use in expressions."""
    raise BadRecord(why)


def replace_file(path: Path, data: bytes | str) -> None:
    """Write beside ``path`` and rename: a reader sees the old file or the whole new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as handle:
            handle.write(data.encode() if isinstance(data, str) else data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _brief(error: BaseException) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
