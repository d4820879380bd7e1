"""Data sets in fixed ratios, divided among ranks and workers: each batch is a pure function of (seed, step, rank).

Positions of the whole mixture are counted through all ranks: step ``s`` of rank ``r`` of ``R`` takes positions
``(s R + r) B`` to ``(s R + r + 1) B``. A position decides the data set and how often that set was drawn before, and so
the pass through it and the record; two ranks never hold the same position, so no record comes twice in a pass.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ConfigError, InvalidArgumentError
from ..examples import Example
from ..randomness import generator
from .faults import BadRecord, Faults, Reason
from .formats import Records
from .order import BLOCK, block_order, locate, shuffled
from .pictures import check_opens


@dataclass(frozen=True)
class DataSet:
    """One data set that has been read. digest: of its files and settings."""

    name: str
    format: str
    records: Records
    faults: Faults
    digest: str


@dataclass(frozen=True)
class Share:
    """Which part of the work is ours: ``rank`` of ``ranks`` processes, in it ``worker`` of ``workers``."""

    rank: int = 0
    ranks: int = 1
    worker: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        for one, all_ in (("rank", "ranks"), ("worker", "workers")):
            index, count = getattr(self, one), getattr(self, all_)
            if type(index) is not int or type(count) is not int or not 0 <= index < count:
                raise InvalidArgumentError(f"{one} is {index!r} of {all_}={count!r}, expected 0 <= {one} < {all_}")


class Mix:
    """Batches of a mixture; what ``train.stages`` calls ``Batches``. Safe to use from several threads.

    sets: in order; weights: name → ratio (1 where it has none). batch_size: examples of one rank and step. accept: is
    given every example before it goes into a batch and raises InvalidArgumentError for one that cannot be learnt from.

    A record whose picture does not open, or that ``accept`` refuses, is counted in its set's faults and left out: the
    batch is shorter by it, and no other record moves. Only a batch of which nothing is left takes the records that come
    next in the set of its last position.
    """

    def __init__(
        self,
        sets: Sequence[DataSet],
        batch_size: int,
        seed: int,
        *,
        weights: Mapping[str, float] | None = None,
        share: Share | None = None,
        accept: Callable[[Example], None] = lambda example: None,
    ) -> None:
        weights = weights or {}
        self.sets, self.batch_size, self.seed, self.accept = tuple(sets), batch_size, seed, accept
        self.share = Share() if share is None else share
        self.shares = tuple(float(weights.get(each.name, 1.0)) for each in self.sets)
        self._opened: set[Path] = set()
        self._bad: set[tuple[int, int]] = set()
        self._lock = threading.Lock()
        self._check()

    @property
    def digest(self) -> str:
        """Of the data, their ratios and the number of ranks: runs are continued on equal ones alone."""
        lines = [[each.name, each.digest, share] for each, share in zip(self.sets, self.shares, strict=True)]
        return hashlib.sha256(json.dumps([lines, self.share.ranks]).encode()).hexdigest()

    def batch(self, step: int) -> list[Example]:
        """The examples of this rank at 0-based ``step``. Raises DataError once a set has too many bad records."""
        first = (step * self.share.ranks + self.share.rank) * self.batch_size
        found = [self.at(position) for position in range(first, first + self.batch_size)]
        batch = [example for example in found if example is not None]
        return batch or [self._next_good(first + self.batch_size - 1)]

    def batches(self, start: int, stop: int) -> Iterator[tuple[int, list[Example]]]:
        """(step, batch) of the steps from ``start`` to before ``stop`` that fall to this worker: every
        ``workers``-th."""
        ahead = (self.share.worker - start) % self.share.workers
        for step in range(start + ahead, stop, self.share.workers):
            yield step, self.batch(step)

    def place(self, position: int) -> tuple[int, int, int]:
        """(data set, pass through it, record) of a position of the mixture."""
        which, drawn = locate(self.shares, self.seed, position)
        return self._place(which, drawn)

    def at(self, position: int) -> Example | None:
        """The example at ``position``; None, and counted, where its record cannot be used."""
        return self._draw(*self.place(position))

    def summary(self) -> dict[str, Any]:
        """Per data set: ``format``, ``records``, ``share`` and what was left out, by reason."""
        whole = sum(self.shares)
        return {
            each.name: {
                "format": each.format,
                "records": len(each.records),
                "share": share / whole,
                **each.faults.to_dict(),
            }
            for each, share in zip(self.sets, self.shares, strict=True)
        }

    def _place(self, which: int, drawn: int) -> tuple[int, int, int]:
        count = len(self.sets[which].records)
        epoch, index = divmod(drawn, count)
        return which, epoch, shuffled(index, count, self.seed, 2, which, epoch)

    def _draw(self, which: int, epoch: int, index: int) -> Example | None:
        """Wordings and answers are drawn from (seed, data set, pass, record)."""
        each = self.sets[which]
        try:
            example = each.records[index].example(generator(self.seed, 4, which, epoch, index))
            self._check_pictures(example)
            self._accept(example)
        except BadRecord as bad:
            with self._lock:
                known = (which, index) in self._bad
                self._bad.add((which, index))
            if not known:
                each.faults.add(bad)
            return None
        return example

    def _next_good(self, position: int) -> Example:
        which, drawn = locate(self.shares, self.seed, position)
        for ahead in range(1, len(self.sets[which].records) + 1):
            example = self._draw(*self._place(which, drawn + ahead))
            if example is not None:
                return example
        raise InvalidArgumentError(f"data set {self.sets[which].name!r} has no record left that can be used")

    def _check_pictures(self, example: Example) -> None:
        """Each picture is decoded once, in whichever data set it comes first; those of archives every time."""
        for image in example.images:
            if image not in self._opened:
                check_opens(image, example.where)
                if isinstance(image, Path):
                    self._opened.add(image)

    def _accept(self, example: Example) -> None:
        try:
            self.accept(example)
        except InvalidArgumentError as error:
            what = str(error).removeprefix(f"{example.where}: ")
            raise BadRecord(Reason.UNFIT, example.where, what) from error

    def _check(self) -> None:
        names = [each.name for each in self.sets]
        if not names or len(set(names)) != len(names):
            raise InvalidArgumentError(f"data sets are {names}, expected one or more of different names")
        if type(self.batch_size) is not int or self.batch_size < 1:
            raise InvalidArgumentError(f"batch_size is {self.batch_size!r}, expected an integer >= 1")
        order, _ = block_order(self.shares, self.seed, 0)
        never = [name for number, name in enumerate(names) if number not in order]
        if never:
            raise ConfigError(f"the ratios of {never} are below 1/{BLOCK} of all: they would never be drawn")
