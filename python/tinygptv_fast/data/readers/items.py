"""Fields of one json object of a data set, each checked where it is asked for."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any, NoReturn

from .faults import BadRecord, Reason


class Item:
    """One json object. ``where`` names file and record in errors. Every method raises BadRecord (MALFORMED)."""

    __slots__ = ("data", "where")

    def __init__(self, where: str, data: Any) -> None:
        if not isinstance(data, Mapping):
            raise BadRecord(Reason.MALFORMED, where, f"it is {type(data).__name__}, expected an object")
        self.where, self.data = where, data

    def __contains__(self, name: str) -> bool:
        return name in self.data

    def get(self, name: str) -> Any:
        """The field, of whatever type."""
        if name not in self.data:
            self.fail(f"it has no {name!r}")
        return self.data[name]

    def text(self, name: str) -> str:
        return self._of(name, str, "text")

    def values(self, name: str) -> list[Any]:
        return self._of(name, list, "a list")

    def texts(self, name: str) -> list[str]:
        """A list of strings, empty ones among them."""
        values = self.values(name)
        if not all(isinstance(value, str) for value in values):
            self.fail(f"its {name} is {_short(values)}, expected a list of texts")
        return values

    def items(self, name: str) -> list[Item]:
        """A list of objects."""
        return [Item(f"{self.where}: {name}[{index}]", value) for index, value in enumerate(self.values(name))]

    def id(self, name: str) -> str:
        """A whole number or a text without surrounding space, as text."""
        value = self.get(name)
        whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
        if not whole and not (isinstance(value, str) and value.strip() == value and value):
            self.fail(f"its {name} is {_short(value)}, expected a whole number or a text")
        return str(value)

    def number(self, name: str) -> float:
        """A finite number."""
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not _finite(value):
            self.fail(f"its {name} is {_short(value)}, expected a finite number")
        return float(value)

    def numbers(self, name: str, count: int) -> list[float]:
        """A list of ``count`` finite numbers."""
        values = self.values(name)
        good = all(not isinstance(v, bool) and isinstance(v, (int, float)) and _finite(v) for v in values)
        if not good or len(values) != count:
            self.fail(f"its {name} is {_short(values)}, expected {count} finite numbers")
        return [float(value) for value in values]

    def fail(self, what: str, reason: Reason = Reason.MALFORMED) -> NoReturn:
        raise BadRecord(reason, self.where, what)

    def _of(self, name: str, kind: type, expected: str) -> Any:
        value = self.get(name)
        if not isinstance(value, kind):
            self.fail(f"its {name} is {_short(value)}, expected {expected}")
        return value


class Ids:
    """Ids seen so far in one data set."""

    def __init__(self) -> None:
        self._seen: set[Hashable] = set()

    def add(self, item: Item, name: str) -> str:
        """The id in field ``name``. Raises BadRecord (DUPLICATE) when an earlier record has it."""
        value = item.id(name)
        if value in self._seen:
            item.fail(f"its {name} {value} is that of an earlier record", Reason.DUPLICATE)
        self._seen.add(value)
        return value


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond what a float holds
        return False


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        text = f"{type(value).__name__} of absurd length"
    return text if len(text) <= 60 else f"{text[:57]}..."
