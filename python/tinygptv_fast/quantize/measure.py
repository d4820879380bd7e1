"""Error of a stored tensor against the float32 tensor it came from, as sums that can be added up.

Knows two tensors of equal shape; formats and names are in ``receipt``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..errors import InvalidArgumentError

_BLOCK_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class ErrorSums:
    """Sums over ``elements`` weights w and what they became ŵ: Σ(w−ŵ)², Σw², max|w−ŵ|. Adding two gives their union."""

    elements: int = 0
    squared_error: float = 0.0
    squared_norm: float = 0.0
    max_abs: float = 0.0

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(
            self.elements + other.elements,
            self.squared_error + other.squared_error,
            self.squared_norm + other.squared_norm,
            max(self.max_abs, other.max_abs),
        )

    @property
    def rmse(self) -> float:
        """Root mean square error, in the weights' unit; 0 for no elements."""
        return math.sqrt(self.squared_error / self.elements) if self.elements else 0.0

    @property
    def relative_l2(self) -> float:
        """‖w−ŵ‖ / ‖w‖; 0 when w is all zero (then ŵ is too, in every format of ours)."""
        return math.sqrt(self.squared_error / self.squared_norm) if self.squared_norm else 0.0


def measure(original: torch.Tensor, stored: torch.Tensor) -> ErrorSums:
    """Compare two tensors of one shape (any float dtypes), accumulating in float64, a bounded block at a time."""
    if original.shape != stored.shape:
        raise InvalidArgumentError(f"stored is {list(stored.shape)}, expected {list(original.shape)} as the original")
    flat, other = original.reshape(-1), stored.reshape(-1)
    total = ErrorSums()
    for start in range(0, flat.numel(), _BLOCK_ELEMENTS):
        a = flat[start : start + _BLOCK_ELEMENTS].double()
        d = a - other[start : start + _BLOCK_ELEMENTS].double()
        total += ErrorSums(a.numel(), float(d.dot(d)), float(a.dot(a)), float(d.abs().max()))
    return total
