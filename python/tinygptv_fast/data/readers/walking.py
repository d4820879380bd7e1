"""Going through a data set in its own order: for checking it, not for training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..examples import Example
from ..randomness import generator
from .faults import BadRecord
from .mix import DataSet
from .pictures import check_opens
from .reading import Report


def decode_all(data: DataSet, report: Report = lambda done, total, text: None) -> None:
    """Read every record, decode every picture once; bad ones are counted. Raises DataError above the set's limit."""
    opened: set[Path] = set()
    for index in range(len(data.records)):
        report(index, len(data.records), f"{data.name}: pictures")
        try:
            example = _example(data, index)
            for image in example.images:
                if image not in opened:
                    check_opens(image, example.where)
                    if isinstance(image, Path):
                        opened.add(image)
        except BadRecord as bad:
            data.faults.add(bad)


def draw_samples(data: DataSet, count: int) -> Iterator[Example]:
    """Up to ``count`` examples spread over the data set, of records that can be used."""
    total = len(data.records)
    for index in dict.fromkeys(number * total // max(count, 1) for number in range(min(count, total))):
        try:
            yield _example(data, index)
        except BadRecord:
            continue


def _example(data: DataSet, index: int) -> Example:
    return data.records[index].example(generator(0, index))
