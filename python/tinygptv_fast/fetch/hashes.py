"""Hashes of a file while it arrives: sha256 always, and the kind that the server named."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 1 << 20
KINDS = ("sha256", "git-blob", "md5")


@dataclass(frozen=True)
class Digest:
    """kind: one of ``KINDS``; "git-blob" is what git names a file by, sha1 over a header with its size and its bytes.
    value: lower case hex."""

    kind: str
    value: str


class Hasher:
    """Fed with a file's bytes in order. md5 and sha1 here guard against damage, which is all that servers offer them
    for; the sha256 goes into the receipt."""

    def __init__(self, kind: str | None, size: int) -> None:
        self._sha256 = hashlib.sha256()
        self._other = None
        if kind == "md5":
            self._other = hashlib.md5(usedforsecurity=False)
        elif kind == "git-blob":
            self._other = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        self._kind = kind

    def update(self, data: bytes) -> None:
        self._sha256.update(data)
        if self._other is not None:
            self._other.update(data)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def why_not(self, expected: Digest | None) -> str | None:
        """None, or how the bytes differ from what is ``expected``."""
        if expected is None:
            return None
        found = self.sha256 if self._other is None else self._other.hexdigest()
        return None if found == expected.value else f"its {expected.kind} is {found}, expected {expected.value}"


def hash_file(
    path: Path, kind: str | None, size: int, report: Callable[[int], None] = lambda done: None, limit: int | None = None
) -> Hasher:
    """The hashes of the file at ``path``, or of its first ``limit`` bytes. ``size``: of the whole, for git-blob."""
    hasher, left = Hasher(kind, size), size if limit is None else limit
    done = 0
    with open(path, "rb") as file:
        while left > 0 and (data := file.read(min(CHUNK_BYTES, left))):
            hasher.update(data)
            left -= len(data)
            done += len(data)
            report(done)
    return hasher
