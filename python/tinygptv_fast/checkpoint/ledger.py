"""The account of every tensor of every source file: loaded, folded, or dropped for a stated reason.

``close`` raises if anything is unaccounted for, so that a conversion can neither lose a weight nor invent one unseen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import CheckpointError
from .table import TableEntry, TensorTable

_SHOWN = 20


@dataclass
class Ledger:
    """Lines keyed by (file, tensor name). ``defaults`` lists what no file held and the original sets to zero."""

    lines: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    defaults: list[dict[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _open: dict[tuple[str, str], TableEntry] = field(default_factory=dict)

    def register(self, table: TensorTable) -> None:
        """Every tensor of ``table`` must be accounted for before ``close``."""
        for entry in table.entries():
            self._open[str(entry.path), entry.key] = entry

    def loaded(self, entry: TableEntry, target: str) -> None:
        self._write(entry, "loaded", target=target)

    def folded(self, entry: TableEntry, target: str) -> None:
        self._write(entry, "folded", target=target)

    def dropped(self, entry: TableEntry, reason: str) -> None:
        self._write(entry, "dropped", reason=reason)

    def zero(self, target: str, reason: str) -> None:
        self.defaults.append({"target": target, "reason": reason})

    def problem(self, message: str) -> None:
        self.problems.append(message)

    def expect(self, entry: TableEntry, shape: tuple[int, ...], target: str) -> bool:
        """True if the tensor has ``shape`` and a floating dtype; else a problem is noted."""
        if entry.info.shape == shape and entry.info.floating:
            return True
        self._open.pop((str(entry.path), entry.key), None)
        self.problem(f"{entry.path}: {entry.key!r} is {entry.info}, expected {list(shape)} floating for {target}")
        return False

    def close(self) -> None:
        """Raise ``CheckpointError`` listing everything missing, mis-shaped or left over."""
        left = [f"{path}: unknown tensor {key!r} {entry.info}" for (path, key), entry in sorted(self._open.items())]
        faults = self.problems + left
        if not faults:
            return
        shown = "\n  ".join(faults[:_SHOWN])
        more = f"\n  ... and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise CheckpointError(f"{len(faults)} tensors do not fit the model:\n  {shown}{more}")

    def to_dict(self) -> dict[str, Any]:
        return {"tensors": list(self.lines.values()), "set_to_zero": self.defaults}

    def counts(self) -> dict[str, int]:
        out = {"loaded": 0, "folded": 0, "dropped": 0, "set_to_zero": len(self.defaults)}
        for line in self.lines.values():
            out[line["status"]] += 1
        return out

    def _write(self, entry: TableEntry, status: str, **more: str) -> None:
        place = (str(entry.path), entry.key)
        self._open.pop(place, None)
        self.lines[place] = {
            "file": entry.path.name,
            "tensor": entry.key,
            "shape": list(entry.info.shape),
            "dtype": entry.info.name,
            "status": status,
            **more,
        }
