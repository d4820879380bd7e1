"""One file from a server to its place: in parts if need be, checked, and in its place only when it is whole.

``name.part`` holds what has come, ``name.part.json`` of what; both stay when anything breaks, and the next run asks for
the rest alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import urllib.error
from collections.abc import Callable, Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import IO

from ..errors import FetchError
from .hashes import CHUNK_BYTES, Hasher, hash_file
from .receipt import Item, write_json
from .web import BROKEN, TRANSIENT, Patience, describe, open_url

Report = Callable[[int], None]


def part_of(folder: Path, item: Item) -> Path:
    """Where the beginning of a file lies until it is whole."""
    return folder / f"{item.path}.part"


def part_bytes(folder: Path, item: Item) -> int:
    """How much of ``item`` has come that a run would keep."""
    part = part_of(folder, item)
    with contextlib.suppress(OSError, ValueError):
        if json.loads(_note(part).read_text(encoding="utf-8")) == _identity(item) and part.stat().st_size <= item.bytes:
            return part.stat().st_size
    return 0


def download(
    item: Item, folder: Path, token: str | None, patience: Patience, report: Report = lambda done: None
) -> str:
    """Bring ``item`` to its place below ``folder``; returns its sha256. report: called with the bytes there.

    token: for the server that ``item.url`` names, and no other. Raises FetchError; what came stays unless it is wrong.
    """
    target, part = folder / item.path, part_of(folder, item)
    target.parent.mkdir(parents=True, exist_ok=True)
    _prepare(folder, item, part)
    one = _Transfer(item, part, token, patience, report)
    one.run()
    wrong = one.hasher.why_not(item.expected)
    if wrong:
        _discard(part)
        raise FetchError(f"{item.url} sent damaged bytes: {wrong}; they were removed, the same command tries again")
    os.replace(part, target)
    _note(part).unlink(missing_ok=True)
    return one.hasher.sha256


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _identity(item: Item) -> dict[str, object]:
    """What two parts must have in common to be of the same bytes."""
    expected = item.expected.value if item.expected else None
    return {"url": item.url, "revision": item.revision, "bytes": item.bytes, "etag": item.etag, "expected": expected}


def _prepare(folder: Path, item: Item, part: Path) -> None:
    """Leave a part that can be continued, and no other; note what it is of before its first byte."""
    if part_bytes(folder, item) == 0:
        _discard(part)
        write_json(_note(part), _identity(item))


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


class _Transfer:
    """Requests until every byte has come, or patience is over."""

    def __init__(self, item: Item, part: Path, token: str | None, patience: Patience, report: Report) -> None:
        self._item, self._part, self._token = item, part, token
        self._patience, self._report = patience, report
        self._begun_anew = False
        self.hasher = Hasher(None, 0)

    def run(self) -> None:
        item, attempt = self._item, 0
        with open(self._part, "ab") as file:
            done = file.tell()
            self.hasher = hash_file(self._part, self._kind, item.bytes, limit=done)
            furthest = done
            while done < item.bytes:
                if attempt:
                    self._patience.wait(attempt)
                problem = self._request(file, done)
                done = file.tell()
                attempt = 1 if done > furthest else attempt + 1
                furthest = max(done, furthest)
                if problem and attempt >= self._patience.attempts:
                    raise FetchError(
                        f"{problem} ({done} of {item.bytes} bytes are there; the same command continues with the rest)"
                    )
            file.flush()
            os.fsync(file.fileno())

    @property
    def _kind(self) -> str | None:
        return self._item.expected.kind if self._item.expected else None

    def _request(self, file: IO[bytes], done: int) -> str | None:
        """Take what one response gives; returns what went wrong with it, None if it ended well."""
        item = self._item
        try:
            response = open_url(item.url, self._headers(done), self._patience.timeout_s)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and done and not self._begun_anew:
                self._begun_anew = True
                self._restart(file)
                return describe(item.url, error)
            if error.code not in TRANSIENT:
                raise FetchError(describe(item.url, error)) from error
            return describe(item.url, error)
        except BROKEN as error:
            return describe(item.url, error)
        with response:
            if self._first_byte(response, done) == 0 and done:
                self._restart(file)  # the server knows no ranges, or these are other bytes than before
            return self._take(response, file)

    def _headers(self, done: int) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        if done:
            headers["Range"] = f"bytes={done}-"
            if self._item.etag:
                headers["If-Range"] = self._item.etag
        return headers

    def _first_byte(self, response: HTTPResponse, done: int) -> int:
        """Where the response begins. Raises FetchError if it is of a file of another size than was planned."""
        whole, first = response.headers.get("Content-Length"), 0
        if response.status == 206:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != done:
                said = response.headers.get("Content-Range")
                raise FetchError(f"{self._item.url} was asked for bytes from {done} on and sent {said!r}")
            first, whole = done, found[2]
        if whole is not None and int(whole) != self._item.bytes:
            raise FetchError(
                f"{self._item.url} has {whole} bytes now, and had {self._item.bytes} when sizes were asked: it changed "
                "meanwhile; the same command asks again"
            )
        return first

    def _restart(self, file: IO[bytes]) -> None:
        file.seek(0)
        file.truncate()
        self.hasher = Hasher(self._kind, self._item.bytes)

    def _take(self, response: HTTPResponse, file: IO[bytes]) -> str | None:
        """Everything that ``response`` sends, to the end of ``file``. A local error is nobody's to retry and passes."""
        item = self._item
        done = file.tell()
        for data in _chunks(response):
            if isinstance(data, Exception):
                return describe(item.url, data)
            if done + len(data) > item.bytes:
                self._restart(file)
                raise FetchError(f"{item.url} sent more than the {item.bytes} bytes it said it has")
            file.write(data)
            self.hasher.update(data)
            done += len(data)
            self._report(done)
        return None if done == item.bytes else f"{item.url}: the connection was cut"


def _chunks(response: HTTPResponse) -> Iterator[bytes | Exception]:
    """What comes; last, if the connection breaks, how."""
    while True:
        try:
            data = response.read(CHUNK_BYTES)
        except BROKEN as error:
            yield error
            return
        if not data:
            return
        yield data
