"""Pictures and captions in WebDataset shards: LAION, Conceptual Captions and SBU as img2dataset writes them."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigError, DataError
from .braces import expand
from .faults import BadRecord, Reason
from .index_cache import cached_index
from .items import Item
from .reading import Reading
from .record import Ask, Record
from .texts import usable

_SHOWN = 3


@dataclass(frozen=True)
class ShardSettings:
    """shards: tars, braces allowed. caption: the member with the text, "json" (its field "caption", as the original
    reads) or "txt". index: a folder for the shards' indexes; without one they are made anew at every start."""

    shards: tuple[Path, ...]
    caption: str = "json"
    index: Path | None = None
    clean: bool = True

    def __post_init__(self) -> None:
        if self.caption not in ("json", "txt"):
            raise ConfigError(f"caption is {self.caption!r}, expected 'json' or 'txt'")


@dataclass(frozen=True, slots=True)
class TarPicture:
    """``size`` bytes at ``offset`` of ``shard``."""

    shard: Path
    offset: int
    size: int

    def load(self) -> bytes:
        """The bytes of the picture file."""
        return _read(self.shard, self.offset, self.size)


class Shards:
    """The samples of all shards, in order; a sample's text is read and checked when it is asked for."""

    def __init__(self, shards: Sequence[Path], rows: Sequence[np.ndarray], settings: ShardSettings) -> None:
        self._shards, self._rows, self._settings = shards, rows, settings
        self._ends = np.cumsum([len(each) for each in rows]).tolist()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        """Raises BadRecord for a caption that cannot be used."""
        number = bisect_right(self._ends, index)
        within = index - (self._ends[number - 1] if number else 0)
        shard = self._shards[number]
        offset, size, text_offset, text_size = map(int, self._rows[number][within])
        where = f"{shard}: record {within}"
        caption = self._caption(_read(shard, text_offset, text_size), where)
        ask = Ask((usable(caption, "caption", where, clean=self._settings.clean),), wordings=())
        return Record(str(shard), within, (ask,), TarPicture(shard, offset, size))

    def _caption(self, raw: bytes, where: str) -> str:
        try:
            text = raw.decode("utf-8")
            if self._settings.caption == "txt":
                return text
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadRecord(Reason.MALFORMED, where, f"its caption cannot be read: {str(error)[:200]}") from None
        return Item(where, data).text("caption")


def read_shards(settings: ShardSettings, reading: Reading) -> Shards:
    """The index of every shard. Raises DataError: a shard is missing, or is no plain tar."""
    shards = [Path(name) for pattern in settings.shards for name in expand(str(pattern))]
    missing = [str(shard) for shard in shards if not shard.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(shards)} shards do not exist: {', '.join(missing[:_SHOWN])}"
            f"{', ...' if len(missing) > _SHOWN else ''}; expected all that the pattern names"
        )
    rows: list[Any] = []
    for number, shard in enumerate(shards):
        reading.report(number, len(shards), f"{reading.name}: {shard.name}")
        found = cached_index(shard, settings.caption, settings.index)
        for bad in found.faults:
            reading.faults.add(bad)
        reading.note(f"{shard.name} {shard.stat().st_size} {len(found.rows)}")
        rows.append(found.rows)
    reading.report(len(shards), len(shards), reading.name)
    return Shards(shards, rows, settings)


def _read(shard: Path, offset: int, size: int) -> bytes:
    try:
        with shard.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
    except OSError as error:
        raise DataError(f"{shard} cannot be read: {error.strerror or error}") from error
    if len(data) != size:
        raise DataError(f"{shard} has become shorter while it was in use")
    return data
