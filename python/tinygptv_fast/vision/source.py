"""Where weights come from: what the tower asks of a model directory, and nothing more.

A ``ModelDirectory`` is a ``WeightSource``; benchmarks and tests bring others, so that no file of the real size is
needed to measure at the real size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..config import ModelConfig
from ..errors import CheckpointError
from ..quantize.int4 import Int4Tensor
from ..quantize.int8 import Int8Tensor


class WeightSource(Protocol):
    """Canonical tensors by name (docs/architecture.md). Tensors may be views of a mapped file: they are not changed."""

    @property
    def config(self) -> ModelConfig: ...

    def kind(self, name: str) -> str:
        """'float32', 'bfloat16', 'float16', 'int8' or 'int4'."""

    def tensor(self, name: str) -> Tensor:
        """An unquantised tensor as it is stored."""

    def quantized(self, name: str) -> Int4Tensor | Int8Tensor:
        """A quantised matrix."""

    def release(self, name: str) -> None:
        """``name`` has been copied: memory that only mirrors a file may be given back."""


Matrix = Tensor | Int8Tensor
"""Weights [N, K] as they are held: float32 or bfloat16, or int8 with a scale per row."""


def vector(source: WeightSource, name: str) -> Tensor:
    """A small float tensor (bias, norm, position table) of any shape as an own float32 copy."""
    out = source.tensor(name).to(torch.float32, copy=True)
    source.release(name)
    return out


def matrix(source: WeightSource, names: Sequence[str]) -> Matrix:
    """Matrices [N_i, K] under ``names`` (with '.weight') one below the other, in their stored kind, all of one kind.

    A single one is not copied: it may be a view of a mapped file.
    """
    kinds = {source.kind(name) for name in names}
    if len(kinds) != 1 or not kinds <= {"float32", "bfloat16", "int8"}:
        raise CheckpointError(
            f"{', '.join(names)} are stored as {sorted(kinds)}, expected one of float32, bfloat16, int8"
        )
    if kinds == {"int8"}:
        parts = [source.quantized(name) for name in names]
        if len(parts) == 1 and isinstance(parts[0], Int8Tensor):
            return parts[0]
        return Int8Tensor(torch.cat([p.qweight for p in parts]), torch.cat([p.scales for p in parts]))
    tensors = [source.tensor(name) for name in names]
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
