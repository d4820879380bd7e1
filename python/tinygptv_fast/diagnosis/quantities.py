"""Amounts of memory and time as people write them: "4GB", "3.5 GiB", "900MB", "2s", "500ms"."""

from __future__ import annotations

import re

from ..errors import InvalidArgumentError

_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30,
          "TIB": 1 << 40}  # fmt: skip
_SECONDS = {"MS": 1e-3, "S": 1.0, "MIN": 60.0}
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+) ?([A-Za-z]+)", re.ASCII)
_LONGEST = 32


def parse_bytes(argument: str, text: str) -> int:
    """``text`` in bytes: GB are 10^9, GiB 2^30. Raises InvalidArgumentError naming ``argument``."""
    value = _amount(text, _BYTES)
    if value is None or not 1 <= value < 1 << 60:
        raise InvalidArgumentError(f"{argument} is {text[:_LONGEST]!r}, expected a size like 4GB, 3.5GiB or 900MB")
    return int(value)


def parse_seconds(argument: str, text: str) -> float:
    """``text`` in seconds. Raises InvalidArgumentError naming ``argument``."""
    value = _amount(text, _SECONDS)
    if value is None or not 0 < value <= 86_400:
        raise InvalidArgumentError(f"{argument} is {text[:_LONGEST]!r}, expected a time like 2s, 500ms or 1.5min")
    return value


def _amount(text: str, units: dict[str, float] | dict[str, int]) -> float | None:
    """None unless ``text`` is a number and one of ``units``, whose case does not matter."""
    found = _AMOUNT.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    if found is None or found[2].upper() not in units:
        return None
    return float(found[1]) * units[found[2].upper()]
