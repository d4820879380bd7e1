"""Where the samples of a WebDataset shard lie in its tar: read once from the headers, so that any sample can be read
alone.

A sample is consecutive members of the same key, the name up to the first dot of its last part: ``000001.jpg``,
``000001.json``, ``000001.txt``. Members' bodies are not read here.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...errors import DataError
from .faults import BadRecord, Reason

PICTURES = ("jpg", "jpeg", "png", "webp")
MAX_PICTURE_BYTES = 256 << 20
MAX_TEXT_BYTES = 4 << 20
_MAX_MEMBERS = 10_000_000
_BLOCK = 512


@dataclass(frozen=True)
class ShardIndex:
    """rows: int64 [samples, 4], offset and size of picture and text in bytes. faults: what was left out."""

    rows: np.ndarray
    faults: tuple[BadRecord, ...]


@dataclass
class _Sample:
    key: str
    picture: tuple[int, int] | None = None
    text: tuple[int, int] | None = None
    fault: BadRecord | None = None


@dataclass
class _Walk:
    """What has been found so far in one shard."""

    shard: Path
    text: str
    rows: list[tuple[int, int, int, int]] = field(default_factory=list)
    faults: list[BadRecord] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)

    def finish(self, sample: _Sample | None) -> None:
        """A sample whose members are all known becomes a row or a fault."""
        if sample is None:
            return
        where = f"{self.shard}: {sample.key}"
        fault = sample.fault
        if sample.key in self.keys:
            fault = BadRecord(Reason.DUPLICATE, where, "the shard has this key twice")
        elif fault is None and sample.picture is None:
            fault = BadRecord(Reason.NO_PICTURE, where, f"it has no {', '.join(PICTURES)}")
        elif fault is None and sample.text is None:
            fault = BadRecord(Reason.MALFORMED, where, f"it has no {self.text}")
        self.keys.add(sample.key)
        if fault is not None:
            self.faults.append(fault)
        elif sample.picture is not None and sample.text is not None:
            self.rows.append((*sample.picture, *sample.text))


def index_shard(shard: Path, text: str) -> ShardIndex:
    """The samples of ``shard``; ``text`` is the extension that holds the caption, "json" or "txt".

    A shard that ends in mid-air keeps the samples before the cut and has one fault for the rest. Raises DataError if
    ``shard`` is no plain tar (a compressed one cannot be read in any order).
    """
    walk = _Walk(shard, text)
    try:
        with tarfile.open(shard, "r:") as archive:
            _walk_members(archive, walk, os.stat(shard).st_size)
    except tarfile.TarError as error:
        raise DataError(f"{shard} is not a plain tar: {error}") from error
    except OSError as error:
        raise DataError(f"{shard} cannot be read: {error.strerror or error}") from error
    return ShardIndex(np.array(walk.rows, dtype=np.int64).reshape(-1, 4), tuple(walk.faults))


def _walk_members(archive: tarfile.TarFile, walk: _Walk, size: int) -> None:
    sample: _Sample | None = None
    try:
        for member in _members(archive, size):
            key, extension = _split(member.name)
            if sample is None or sample.key != key:
                walk.finish(sample)
                sample = _Sample(key)
            _note(sample, member, extension, walk)
    except tarfile.TarError as error:
        if sample is not None and sample.picture is not None and sample.text is not None:
            walk.finish(sample)
        what = f"it ends in or behind {_name(sample)}: {error}"
        walk.faults.append(BadRecord(Reason.TRUNCATED, str(walk.shard), what))
        return
    walk.finish(sample)
    _check_end(walk.shard, archive.offset, walk)


def _members(archive: tarfile.TarFile, size: int) -> Iterator[tarfile.TarInfo]:
    """Plain files in order. Raises TarError for offsets that do not grow or leave the file, as only a damaged or
    made-up archive has them."""
    reached = 0
    for number, member in enumerate(archive):
        if number == _MAX_MEMBERS:
            raise tarfile.TarError(f"more than {_MAX_MEMBERS} members")
        if member.size < 0 or member.offset_data < reached or member.offset_data + member.size > size:
            raise tarfile.TarError("unexpected end of data")
        reached = member.offset_data + member.size
        archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep a record of each
        if member.isreg() and not member.issparse():
            yield member


def _note(sample: _Sample, member: tarfile.TarInfo, extension: str, walk: _Walk) -> None:
    where = f"{walk.shard}: {member.name[:200]}"
    place = (member.offset_data, member.size)
    if extension in PICTURES:
        limit, twice, sample.picture = MAX_PICTURE_BYTES, sample.picture is not None, place
    elif extension == walk.text:
        limit, twice, sample.text = MAX_TEXT_BYTES, sample.text is not None, place
    else:
        return
    if member.size > limit:
        sample.fault = BadRecord(Reason.TOO_LARGE, where, f"it has {member.size} bytes, expected at most {limit}")
    elif member.size == 0:
        sample.fault = BadRecord(Reason.EMPTY, where, "it is empty")
    elif twice:
        sample.fault = BadRecord(Reason.DUPLICATE, where, "its sample has such a member already")


def _check_end(shard: Path, end: int, walk: _Walk) -> None:
    """Behind the last member of a whole tar stands a block of zeros. Where something else stands, or nothing, tarfile
    takes it for the end without a word."""
    with shard.open("rb") as file:
        file.seek(end)
        block = file.read(_BLOCK)
    if block != bytes(_BLOCK):
        what = "it ends without an end mark" if len(block) < _BLOCK else f"no header stands at byte {end}"
        walk.faults.append(BadRecord(Reason.TRUNCATED, str(shard), f"{what}: damaged, or half downloaded?"))


def _split(name: str) -> tuple[str, str]:
    """(key, extension in lower case) by WebDataset's rule."""
    folder, _, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return (f"{folder}/{stem}" if folder else stem), extension.lower()


def _name(sample: _Sample | None) -> str:
    return "its first sample" if sample is None else f"sample {sample.key[:100]}"
