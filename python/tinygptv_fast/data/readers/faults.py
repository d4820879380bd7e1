"""Records that cannot be learnt from: why, where, and how many a data set may have before it is refused."""

from __future__ import annotations

import collections
import enum
import threading
from collections.abc import Callable
from typing import Any

from ...errors import ConfigError, DataError

_SHOWN = 20  # of each data set are told one by one; the rest is counted
_KEPT = 5  # of each data set are quoted in summaries and errors


class Reason(enum.Enum):
    """Why a record is left out. The list is closed: summaries count by it."""

    MALFORMED = "malformed"
    NO_PICTURE = "picture missing"
    BAD_PICTURE = "picture does not open"
    BAD_BOX = "box not in the picture"
    TURNED = "boxes of a turned picture"
    EMPTY = "empty text"
    DUPLICATE = "duplicate id"
    RESERVED = "reserved text"
    TOO_LARGE = "too large"
    TRUNCATED = "archive cut short"
    UNFIT = "refused by the stage"


class BadRecord(DataError):
    """One record that cannot be used. ``where`` names file and record."""

    def __init__(self, reason: Reason, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")
        self.reason, self.where = reason, where


class Faults:
    """The bad records of one data set, and their limit.

    limit: how many may be left out: an int is a number of records, a float below 1 a share of all. tell: is given a
    line for each of the first few. May be used from several threads.
    """

    def __init__(self, name: str, limit: float, tell: Callable[[str], None] = lambda line: None) -> None:
        self.name, self.limit = name, limit
        self.counts: collections.Counter[Reason] = collections.Counter()
        self.first: list[str] = []
        self._allowed = limit if isinstance(limit, int) else None  # a share is known once the records are counted
        self._total: int | None = None
        self._tell, self._lock = tell, threading.Lock()

    @property
    def bad(self) -> int:
        return self.counts.total()

    def add(self, bad: BadRecord) -> None:
        """Count ``bad``. Raises DataError if that is more than the limit allows, as far as it is known by now."""
        with self._lock:
            self.counts[bad.reason] += 1
            if len(self.first) < _KEPT:
                self.first.append(str(bad))
            number = self.bad
            over = self._allowed is not None and number > self._allowed
        if number <= _SHOWN:
            self._tell(f"{self.name}: left out: {bad}")
        if number == _SHOWN + 1:
            self._tell(f"{self.name}: more are left out, counted but not shown")
        if over:
            raise DataError(self._too_many())

    def settle(self, good: int) -> None:
        """The data set has been read and has ``good`` records. Raises DataError if too many were bad or none is
        left."""
        self._total = good + self.bad
        if self._allowed is None:
            self._allowed = int(self.limit * self._total)
        if self.bad > self._allowed:
            raise DataError(self._too_many())
        if not good:
            raise DataError(
                f"data set {self.name!r} has no records, expected at least one; {self.describe()}{self._quoted()}"
            )

    def describe(self) -> str:
        """``3 left out: 2 picture missing, 1 empty text``."""
        if not self.bad:
            return "none left out"
        return f"{self.bad} left out: " + ", ".join(f"{n} {reason.value}" for reason, n in self.counts.most_common())

    def to_dict(self) -> dict[str, Any]:
        """Json-ready: ``bad``, ``reasons``, ``first``."""
        reasons = {reason.value: count for reason, count in self.counts.most_common()}
        return {"bad": self.bad, "reasons": reasons, "first": list(self.first)}

    def _too_many(self) -> str:
        of = f" of {self._total}" if self._total is not None else ""
        return (
            f"data set {self.name!r} has too many bad records{of}, max_bad is {self.limit!r}; {self.describe()}"
            f"{self._quoted()}"
        )

    def _quoted(self) -> str:
        return f"; the first: {'; '.join(self.first)}" if self.first else ""


def check_limit(value: Any, where: str) -> float:
    """``max_bad`` of a config. Raises ConfigError unless it is an integer >= 0 or a share 0 <= x < 1."""
    good = not isinstance(value, bool) and isinstance(value, (int, float))
    if not good or value < 0 or (isinstance(value, float) and not value < 1):
        raise ConfigError(
            f"{where} is {value!r}, expected a number of records (an integer >= 0) or a share of them (0.0 to below 1)"
        )
    return float(value) if isinstance(value, float) else int(value)
