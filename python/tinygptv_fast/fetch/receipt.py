"""``fetch.json`` beside the fetched files: where each came from, at which commit, its hashes, whether it is there.

It is written before the first byte comes and after every file, so what was interrupted continues at the same commits.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FetchError
from .hashes import KINDS, Digest

RECEIPT = "fetch.json"
SCHEMA, VERSION = "tinygptv.fetch", 1
PARTS = ("phi", "vision", "qformer", "checkpoint")
_MAX_BYTES = 1 << 20
_PATH = re.compile(r"([\w-][\w.-]*/)?[\w-][\w.-]*")


@dataclass(frozen=True)
class Item:
    """One file. path: below the folder; part: what ``convert`` calls it; source: repository or address; revision: the
    commit it is pinned to, None for a plain server; etag: that server's name for these bytes.
    expected: the hash that the server states, if any. sha256: found here, None while the file is not there."""

    path: str
    part: str
    source: str
    revision: str | None
    url: str
    bytes: int
    expected: Digest | None
    etag: str | None = None
    sha256: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """A json-ready dict, with what the bytes were checked against in words."""
        return {**dataclasses.asdict(self), "checked_against": self.checked_against}

    @property
    def checked_against(self) -> str | None:
        """None while the file is not there."""
        if self.sha256 is None:
            return None
        return f"the {self.expected.kind} that the server states" if self.expected else "its size alone"

    @classmethod
    def from_dict(cls, data: Any) -> Item:
        """Raises ValueError, TypeError or KeyError for anything that ``to_dict`` would not write."""
        data = dict(data)
        del data["checked_against"]
        if data["expected"] is not None:
            data["expected"] = Digest(**data["expected"])
        item = cls(**data)
        texts = (item.path, item.part, item.source, item.url)
        if not all(isinstance(text, str) for text in texts) or type(item.bytes) is not int or item.bytes < 0:
            raise ValueError("an entry of the wrong types")
        if not _PATH.fullmatch(item.path) or ".." in item.path or item.part not in PARTS:
            raise ValueError(f"an entry for {item.path!r}")
        if item.expected is not None and item.expected.kind not in KINDS:
            raise ValueError(f"a hash of kind {item.expected.kind!r}")
        return item


def read_receipt(folder: Path) -> list[Item]:
    """Its items; none without a receipt. Raises FetchError naming a receipt that cannot be used."""
    path = folder / RECEIPT
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("it is too large")
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA or data["version"] != VERSION:
            raise ValueError(f"it is {data['schema']!r} version {data['version']!r}")
        return [Item.from_dict(one) for one in data["files"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FetchError(f"{path} is no receipt of a fetch ({error}); remove it to begin anew") from error


def write_receipt(folder: Path, items: Iterable[Item]) -> None:
    """Replace the receipt in one piece."""
    data = {"schema": SCHEMA, "version": VERSION, "files": [item.to_dict() for item in items]}
    write_json(folder / RECEIPT, data)


def write_json(path: Path, data: Any) -> None:
    """Write beside ``path``, flush to the disk, rename."""
    temporary = path.with_name(f".{path.name}.writing")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(json.dumps(data, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
