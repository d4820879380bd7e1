"""What every reader needs while it reads one data set: files under a size cap, faults, pictures, progress, the
digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ...errors import DataError
from .faults import BadRecord, Faults, Reason
from .items import Item
from .pictures import Picture, Pictures
from .record import Record, where

MAX_FILE_BYTES = 4 << 30
"""Largest annotation file; the largest of the paper's data sets, the regions of Visual Genome, has 0.7 GB."""

_T = TypeVar("_T")
_EVERY = 1000  # records between two reports of progress
Report = Callable[[int, int, str], None]


class Reading:
    """State of reading one data set. name: in errors and progress. report: is told records done, in all, what."""

    def __init__(
        self,
        name: str,
        faults: Faults,
        images: Sequence[Path] = (),
        report: Report = lambda done, total, text: None,
        shared: dict[str, Any] | None = None,
    ) -> None:
        """shared: what the data sets of one mixture may find here of each other, by content."""
        self.name, self.faults, self.report = name, faults, report
        self.shared = {} if shared is None else shared
        self.pictures = Pictures(images)
        self._hash = hashlib.sha256()

    def raw(self, path: Path) -> bytes:
        """The content of ``path``, which becomes part of the digest. Raises DataError: missing, or above 4 GiB."""
        try:
            size = path.stat().st_size
            if size > MAX_FILE_BYTES:
                raise DataError(f"{path} has {size} bytes, expected at most {MAX_FILE_BYTES}")
            raw = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        self.note(hashlib.sha256(raw).hexdigest())
        return raw

    def json(self, path: Path, *, keyed: bool = False) -> Any:
        """The json in ``path``. keyed: its objects are looked through for a key that comes twice, which is a bad record
        (the last value counts). Raises DataError naming the file.
        """
        twice: list[str] = []

        def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            found: dict[str, Any] = {}
            for name, value in pairs:
                if name in found:
                    twice.append(name)
                found[name] = value
            return found

        try:
            data = json.loads(self.raw(path), object_pairs_hook=once if keyed else None)
        except (ValueError, RecursionError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} is not json: {str(error)[:200]}") from error
        for name in twice:
            self.faults.add(BadRecord(Reason.DUPLICATE, str(path), f"an object has the key {name[:60]!r} twice"))
        return data

    def records(self, path: Path, *, of: str | None = None) -> list[Any]:
        """The list of records in json file ``path``, under key ``of`` if given; ``.jsonl`` has one on each line.

        Raises DataError naming the file if it holds no such list.
        """
        if path.suffix == ".jsonl" and of is None:
            return self._lines(path)
        data = self.json(path)
        if of is not None and isinstance(data, Mapping):
            data = data.get(of)
        if not isinstance(data, list):
            inside = f"an object with a list {of!r}" if of is not None else "a list"
            raise DataError(f"{path} holds {type(data).__name__}, expected {inside}")
        return data

    def object(self, path: Path) -> Mapping[str, Any]:
        """The json object in ``path``, its keys looked through as in ``json``. Raises DataError."""
        data = self.json(path, keyed=True)
        if not isinstance(data, Mapping):
            raise DataError(f"{path} holds {type(data).__name__}, expected an object")
        return data

    def collect(
        self, path: Path, items: Sequence[Any], parse: Callable[[Item, int], Iterable[Record]], first: int = 0
    ) -> list[Record]:
        """What ``parse`` makes of each item and its index (counted from ``first``); bad ones are counted."""
        out: list[Record] = []
        for index, item in enumerate(self.walk(items), first):
            with self.sparing():
                out.extend(parse(Item(where(str(path), index), item), index))
        return out

    def walk(self, items: Sequence[_T]) -> Iterator[_T]:
        """``items``, with progress."""
        for index, item in enumerate(items):
            if index % _EVERY == 0:
                self.report(index, len(items), self.name)
            yield item
        self.report(len(items), len(items), self.name)

    def sparing(self) -> _Sparing:
        """A block whose BadRecord is counted instead of raised."""
        return _Sparing(self.faults)

    def picture(self, name: str, item: Item) -> Picture:
        """The picture ``name`` of ``item``. Raises BadRecord."""
        return self.pictures.find(name, item.where)

    def note(self, text: str) -> None:
        """Make ``text`` part of the digest."""
        self._hash.update(text.encode("utf-8", "surrogatepass") + b"\n")

    def digest(self, records: int) -> str:
        """Of all that was read: files, names and sizes of pictures, how many records there are."""
        for name, size in sorted(self.pictures.sizes.items()):
            self.note(f"{name} {size}")
        self.note(str(records))
        return self._hash.hexdigest()

    def _lines(self, path: Path) -> list[Any]:
        """A line that is no json stands as its fault and is counted when it comes up for parsing."""
        out: list[Any] = []
        for line in self.raw(path).splitlines():
            if line.strip():
                try:
                    out.append(json.loads(line))
                except (ValueError, RecursionError):
                    out.append(None)
        return out


class _Sparing:
    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, BadRecord):
            return False
        self._faults.add(error)
        return True
