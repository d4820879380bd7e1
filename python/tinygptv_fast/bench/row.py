"""One line of results: a figure with its spread, what it had to move and compute, and how near it came to the roof."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .blocks import Blocks, Cost


@dataclass(frozen=True)
class Row:
    """``median``, ``p10`` and ``p90`` in ``unit`` over ``n`` blocks; None where none counted. ``dropped`` blocks are in
    no figure but ``details["median_of_dropped"]``.

    bytes, ops: of one block, counted from sizes. read_gb_per_s: the probes around the blocks. peak_gop_per_s: int8 in
    registers. fraction_of_bandwidth: bytes over time over the probes. fraction_of_peak: ops likewise. fraction_of_roof:
    the least time that either allows, over the time taken. Shares are of all CPUs' time, the worst block's.
    """

    section: str
    name: str
    unit: str
    median: float | None
    p10: float | None = None
    p90: float | None = None
    n: int = 0
    dropped: int = 0
    bytes: int | None = None
    ops: int | None = None
    gb_per_s: float | None = None
    gop_per_s: float | None = None
    read_gb_per_s: float | None = None
    peak_gop_per_s: float | None = None
    fraction_of_bandwidth: float | None = None
    fraction_of_peak: float | None = None
    fraction_of_roof: float | None = None
    foreign_share: float | None = None
    stolen_share: float | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """json-ready; ``details`` stays an object of its own."""
        return dataclasses.asdict(self)


def spread(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """(median, p10, p90), linearly between neighbours; Nones of nothing."""
    if not values:
        return None, None, None
    if len(values) == 1:
        return values[0], values[0], values[0]
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return statistics.median(values), tenths[0], tenths[-1]


def from_values(section: str, name: str, unit: str, values: Sequence[float], **details: Any) -> Row:
    """A row of figures that are not held against a roof."""
    median, p10, p90 = spread(values)
    return Row(section, name, unit, median, p10, p90, len(values), details=details)


def from_blocks(
    section: str,
    name: str,
    unit: str,
    blocks: Blocks,
    cost: Cost,
    value: Callable[[float], float],
    peak: float | None,
    **details: Any,
) -> Row:
    """A row of blocks of ``cost`` each. ``value`` turns a block's seconds into ``unit``; ``peak`` in ops per second."""
    kept = blocks.kept
    if blocks.dropped:
        details["median_of_dropped"] = statistics.median(value(block.seconds) for block in blocks.dropped)
    median, p10, p90 = spread([value(block.seconds) for block in kept])
    if not kept:
        dropped = len(blocks.dropped)
        return Row(section, name, unit, None, dropped=dropped, bytes=cost.bytes, ops=cost.ops, details=details)
    seconds = statistics.median(block.seconds for block in kept)
    moved = [cost.bytes / block.seconds / block.bandwidth for block in kept]
    computed = [cost.ops / block.seconds / peak for block in kept] if peak else []
    roof = [max(pair) for pair in zip(moved, computed, strict=True)] if computed else moved
    return Row(
        section,
        name,
        unit,
        median,
        p10,
        p90,
        len(kept),
        len(blocks.dropped),
        cost.bytes,
        cost.ops,
        gb_per_s=cost.bytes / seconds / 1e9,
        gop_per_s=cost.ops / seconds / 1e9,
        read_gb_per_s=statistics.median(block.bandwidth for block in kept) / 1e9,
        peak_gop_per_s=peak / 1e9 if peak else None,
        fraction_of_bandwidth=statistics.median(moved),
        fraction_of_peak=statistics.median(computed) if computed else None,
        fraction_of_roof=statistics.median(roof),
        foreign_share=max(block.foreign for block in kept),
        stolen_share=max(block.stolen for block in kept),
        details=details,
    )
