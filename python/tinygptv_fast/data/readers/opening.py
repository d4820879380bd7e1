"""From a config's data sets to a mixture: reads them one after the other, holds each to its limit of bad records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .config import SetConfig
from .faults import Faults
from .formats import folders
from .mix import DataSet, Mix, Share
from .reading import Reading, Report


def open_set(
    config: SetConfig,
    tell: Callable[[str], None] = lambda line: None,
    report: Report = lambda done, total, text: None,
    shared: dict[str, Any] | None = None,
) -> DataSet:
    """One data set, read. tell: is given a line for each of the first bad records. shared: see ``Reading``.

    Raises DataError: a file is missing or malformed, or too many records are bad; ConfigError.
    """
    faults = Faults(config.name, config.max_bad, tell)
    reading = Reading(config.name, faults, folders(config.settings), report, shared)
    records = config.format.read(config.settings, reading)
    faults.settle(len(records))
    settings = json.dumps(config.to_dict(), sort_keys=True)
    digest = hashlib.sha256(f"{settings}\n{reading.digest(len(records))}".encode()).hexdigest()
    return DataSet(config.name, config.format.name, records, faults, digest)


def ratios_of(sets: Sequence[SetConfig], defaults: Mapping[str, float]) -> dict[str, float]:
    """Each set's ratio: its own, else that of its name in ``defaults`` (a stage's), else 1."""
    return {each.name: float(defaults.get(each.name, 1.0)) if each.ratio is None else each.ratio for each in sets}


def open_mix(
    sets: Sequence[SetConfig],
    batch_size: int,
    seed: int,
    *,
    ratios: Mapping[str, float] | None = None,
    share: Share | None = None,
    tell: Callable[[str], None] = lambda line: None,
    report: Report = lambda done, total, text: None,
) -> Mix:
    """All ``sets``, read and mixed. ratios: of a stage, for sets that name none. Raises what ``open_set`` raises."""
    shared: dict[str, Any] = {}
    opened = []
    for each in sets:
        opened.append(open_set(each, tell, report, shared))
        tell(f"{each.name}: {len(opened[-1].records):,} records ({each.format.name}), {opened[-1].faults.describe()}")
    return Mix(opened, batch_size, seed, weights=ratios_of(sets, ratios or {}), share=share)
