"""One view of weight files: named tensors with shape, dtype and the file each lies in, read on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError
from .mapped import TensorInfo

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TableEntry:
    """``read`` returns the tensor as a view of the mapped file."""

    path: Path
    key: str
    info: TensorInfo
    read: Callable[[], torch.Tensor]

    def check_finite(self, values: torch.Tensor) -> torch.Tensor:
        """``values`` (all or some rows of this tensor) unchanged; NaN or Inf raise and name file and tensor."""
        import torch

        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            kind = "NaN" if bool(torch.isnan(values).any()) else "Inf"
            raise CheckpointError(f"{self.path}: tensor {self.key!r} holds {kind} values")
        return values


class TensorTable:
    """The tensors of one file, or of the shards of one model."""

    def __init__(self, path: Path, entries: Iterable[TableEntry]) -> None:
        self.path = path
        self._entries: dict[str, TableEntry] = {}
        for entry in entries:
            if entry.key in self._entries:
                other = self._entries[entry.key].path
                raise CheckpointError(f"tensor {entry.key!r} is in both {other} and {entry.path}")
            self._entries[entry.key] = entry

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def names(self) -> list[str]:
        return list(self._entries)

    def __getitem__(self, name: str) -> TableEntry:
        try:
            return self._entries[name]
        except KeyError:
            raise CheckpointError(f"{self.path} has no tensor {name!r}") from None

    def entries(self) -> list[TableEntry]:
        return list(self._entries.values())
