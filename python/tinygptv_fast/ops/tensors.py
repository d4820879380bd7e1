"""torch tensors as the native core takes them: a buffer without a copy. Shapes are matched there, in C++.

Knows devices, dtypes and gradients, because the buffer protocol knows none of them; no op.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
from typing import Any

import torch

from ..env import MAX_THREADS, Settings, cuda_emulation
from ..errors import InvalidArgumentError, UnsupportedError

DEVICES = ("cpu", "cuda")  # of ops that are on both


def buffer_of(name: str, tensor: Any, dtype: torch.dtype) -> Any:
    """``tensor`` as a numpy array over the same memory (strides kept); bfloat16, which numpy has not, as the bits of
    float16. Raises as ``dense_of`` does.
    """
    dense = dense_of(name, tensor, dtype)
    return (dense.view(torch.float16) if dtype == torch.bfloat16 else dense).numpy()


def dense_of(name: str, tensor: Any, dtype: torch.dtype) -> torch.Tensor:
    """``tensor``, detached.

    Raises ``InvalidArgumentError`` naming ``name`` unless it is a dense CPU tensor of ``dtype``, and
    ``UnsupportedError`` if it asks for a gradient that no op of this package has.
    """
    if not isinstance(tensor, torch.Tensor):
        raise InvalidArgumentError(f"{name} is {type(tensor).__name__}, expected a torch.Tensor of {dtype}")
    if tensor.device.type != "cpu" or tensor.dtype != dtype or tensor.layout != torch.strided or tensor.is_neg():
        raise InvalidArgumentError(
            f"{name} is {list(tensor.shape)} {tensor.dtype} on {tensor.device} ({tensor.layout}), "
            f"expected a dense {dtype} tensor on cpu"
        )
    if tensor.requires_grad:
        if torch.is_grad_enabled():
            raise UnsupportedError(f"{name} requires a gradient, which this op has not; call it under torch.no_grad()")
        tensor = tensor.detach()
    return tensor


def on_gpu(tensor: Any) -> bool:
    """Whether it is for ``ops.gpu``: on a GPU, or on the CPU while that emulates one (tests)."""
    return isinstance(tensor, torch.Tensor) and (tensor.is_cuda or bool(cuda_emulation()))


def native_module() -> ModuleType:
    """The compiled core, or ``UnsupportedError`` that says what is missing."""
    try:
        from .. import _native
    except ImportError as error:
        raise UnsupportedError(
            f"tinygptv_fast._native cannot be imported ({error}), expected the compiled core: install the package"
        ) from error
    return _native


def thread_count(threads: int | None, settings: Settings) -> int:
    """``threads``, else ``TINYGPTV_THREADS``, else the physical cores (asked once per process)."""
    if threads is None:
        return settings.threads or _physical_cores()
    if type(threads) is not int or not 1 <= threads <= MAX_THREADS:
        raise InvalidArgumentError(f"threads is {threads!r}, expected None or an integer 1..{MAX_THREADS}")
    return threads


@lru_cache(maxsize=1)
def _physical_cores() -> int:
    return int(native_module().physical_cores())
