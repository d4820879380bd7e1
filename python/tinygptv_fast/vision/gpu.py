"""The vision side on a GPU, through torch: whether there is one, and weights brought there.

Knows devices and sources of weights, no steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import ModelConfig
from ..env import read_settings
from ..errors import UnsupportedError
from ..quantize.int4 import Int4Tensor
from ..quantize.int8 import Int8Tensor
from .source import WeightSource


def gpu_device() -> torch.device:
    """The first GPU; the CPU where the CUDA library is an emulation, for tests. Raises UnsupportedError if torch has
    none, though our own library may."""
    if read_settings().cuda_emulation:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    raise UnsupportedError(
        f"vision_device is 'cuda', but torch {torch.__version__} has no GPU: install torch with CUDA, or give "
        "vision_device='cpu' or vision=False"
    )


class OnDevice:
    """A ``WeightSource`` whose tensors are on ``device``: copies, unless they were there."""

    def __init__(self, source: WeightSource, device: torch.device) -> None:
        self._source, self._device = source, device

    @property
    def config(self) -> ModelConfig:
        return self._source.config

    def kind(self, name: str) -> str:
        return self._source.kind(name)

    def tensor(self, name: str) -> Tensor:
        return self._source.tensor(name).to(self._device)

    def quantized(self, name: str) -> Int4Tensor | Int8Tensor:
        found = self._source.quantized(name)
        if isinstance(found, Int4Tensor):
            raise UnsupportedError(f"{name} is stored as int4, expected float32, bfloat16 or int8 on the vision side")
        return Int8Tensor(found.qweight.to(self._device), found.scales.to(self._device))

    def release(self, name: str) -> None:
        self._source.release(name)
