"""Who calls a kernel: a device, and the stream of it that the caller works on. Checks of its tensors.

Under ``TINYGPTV_CUDA_EMULATION`` (tests) the device is the CPU, on which the kernels are emulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ...env import cuda_emulation
from ...errors import InvalidArgumentError, UnsupportedError
from ..tensors import native_module

if TYPE_CHECKING:
    from ..._native import CudaOps

_ALIGNMENT = 16  # bytes, of what is read in vectors; torch's own allocations have 512
_NUMBERS = (torch.int32, torch.int64)  # read one by one


class Caller:
    """The device of ``anchor``, an argument called ``name``, and torch's current stream there.

    Raises ``InvalidArgumentError`` for what is no tensor of a GPU, ``UnsupportedError`` where no GPU can be used.
    """

    def __init__(self, name: str, anchor: Any) -> None:
        emulation = cuda_emulation()
        wanted = "cpu" if emulation else "cuda"
        if not isinstance(anchor, torch.Tensor) or anchor.device.type != wanted:
            found = anchor.device if isinstance(anchor, torch.Tensor) else type(anchor).__name__
            raise InvalidArgumentError(f"{name} is on {found}, expected a tensor on a GPU")
        self.device = anchor.device
        index = 0 if emulation else self.device.index or 0
        stream = 0 if emulation else torch.cuda.current_stream(self.device).cuda_stream
        self.kernels: CudaOps = native_module().CudaOps(emulation=emulation, device=index, stream=stream)

    def address(self, name: str, tensor: Any, dtypes: torch.dtype | Sequence[torch.dtype], *shape: int) -> int:
        """Where ``tensor`` begins. Raises ``InvalidArgumentError`` unless it is a contiguous tensor of this device of
        one of ``dtypes`` and of ``shape``, ``UnsupportedError`` if it asks for a gradient."""
        allowed = (dtypes,) if isinstance(dtypes, torch.dtype) else tuple(dtypes)
        expected = f"expected a contiguous {' or '.join(map(str, allowed))} tensor {list(shape)} on {self.device}"
        if not isinstance(tensor, torch.Tensor):
            raise InvalidArgumentError(f"{name} is {type(tensor).__name__}, {expected}")
        dense = tensor.layout == torch.strided and not tensor.is_neg() and tensor.is_contiguous()
        if not dense or tensor.device != self.device or tensor.dtype not in allowed or tuple(tensor.shape) != shape:
            strides = "" if dense else f" with strides {list(tensor.stride())}"
            found = f"{list(tensor.shape)} {tensor.dtype} on {tensor.device}{strides}"
            raise InvalidArgumentError(f"{name} is {found}, {expected}")
        if tensor.requires_grad and torch.is_grad_enabled():
            raise UnsupportedError(f"{name} requires a gradient, which this op has not; call it under torch.no_grad()")
        if tensor.dtype not in _NUMBERS and tensor.data_ptr() % _ALIGNMENT:
            raise InvalidArgumentError(
                f"{name} does not begin at a multiple of {_ALIGNMENT} bytes, expected one that does"
            )
        return int(tensor.data_ptr())

    def optional(self, name: str, tensor: Any, dtypes: torch.dtype | Sequence[torch.dtype], *shape: int) -> int:
        """``address``, or 0 for None."""
        return 0 if tensor is None else self.address(name, tensor, dtypes, *shape)

    def result(self, out: torch.Tensor | None, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """``out`` as it is, or a new tensor."""
        return torch.empty(shape, dtype=dtype, device=self.device) if out is None else out


def check_device(device: torch.device | str) -> None:
    """Raises ``UnsupportedError`` for a GPU where torch has none."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise UnsupportedError(
            f"device is {str(device)!r}, but torch {torch.__version__} has no GPU: install torch with CUDA, or leave "
            "device out for weights of the CPU's kernels"
        )


def dims(name: str, tensor: Any, letters: Sequence[str]) -> tuple[int, ...]:
    """The sizes of a tensor that has as many dims as ``letters``, which name them."""
    if not isinstance(tensor, torch.Tensor) or tensor.dim() != len(letters):
        found = list(tensor.shape) if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise InvalidArgumentError(f"{name} is {found}, expected [{', '.join(letters)}]")
    return tuple(tensor.shape)


def check_apart(out: torch.Tensor, **inputs: torch.Tensor | None) -> None:
    """Raises ``InvalidArgumentError`` if ``out`` shares memory with an input."""
    begin = out.data_ptr()
    end = begin + out.numel() * out.element_size()
    for name, other in inputs.items():
        if other is None:
            continue
        first = other.data_ptr()
        if first < end and begin < first + other.numel() * other.element_size():
            raise InvalidArgumentError(f"out shares memory with {name}, expected memory of its own")


def refuse_threads(threads: int | None) -> None:
    """Raises ``InvalidArgumentError`` for a number of threads, which no GPU has."""
    if threads is not None:
        raise InvalidArgumentError(f"threads is {threads!r}, expected None for tensors on a GPU")
