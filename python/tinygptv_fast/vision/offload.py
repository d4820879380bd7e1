"""Steps whose weights stay on the host and are on the GPU only while they compute: half a block at a time, so that the
vision side takes little of a GPU beside its activations (an MLP of the released size has 35 MB in bfloat16), and each
picture the time of one copy of the weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..quantize.int8 import Int8Tensor
from .blocks import Norm, Rows
from .linear import GpuLinear, WidenedLinear

_HOLDERS = (Norm, GpuLinear, WidenedLinear, Int8Tensor)  # of tensors, inside a step


class Offloaded:
    """``step`` (of ``blocks``, its weights on the CPU) computed on ``device``. Immutable: any number of threads may
    call it, each brings weights of its own."""

    def __init__(self, step: Callable[[Rows], None], device: torch.device) -> None:
        # Pinned pages are read by the GPU itself, while the CPU goes on.
        self._step = _replaced(step, Tensor.pin_memory) if device.type == "cuda" else step
        self._device = device

    def __call__(self, rows: Rows) -> None:
        there = _replaced(self._step, lambda tensor: tensor.to(self._device, non_blocking=True))
        there(rows)


def _replaced(step: Callable[[Rows], None], put: Callable[[Tensor], Tensor]) -> Callable[[Rows], None]:
    """A step like ``step`` with ``put`` of each of its tensors."""

    def other(part: Any) -> Any:
        if isinstance(part, Tensor):
            return put(part)
        return with_others(part) if isinstance(part, _HOLDERS) else part

    def with_others(holder: Any) -> Any:
        out = copy.copy(holder)
        for name, part in vars(holder).items():
            object.__setattr__(out, name, other(part))  # Int8Tensor is frozen
        return out

    return with_others(step)
