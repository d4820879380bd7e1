"""Products with packed weights on a GPU: int4, int8, float16, bfloat16 and float32.

Activations are float16 for int4 and int8, of the weights' own dtype otherwise; sums are float32. Row m of the result
depends on row m of x and on the weights alone, bit for bit, whatever the other rows and the GPU; but up to 8 rows of an
int4 product go through a kernel of their own (int4_gemv), whose sums are made in another order than those of more.
csrc/kernels/cuda has int4_gemv.h, int4_gemm.h, int8_gemm.h, half_gemm.h and float_gemm.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from ...errors import InvalidArgumentError
from ..tensors import native_module
from .caller import Caller, check_apart, check_device, dims, refuse_threads

if TYPE_CHECKING:
    from ..._native import CudaProduct
    from ..int4_matmul import Int4Matrix
    from ..int8_matmul import Int8Matrix

Device = torch.device | str
FLOATS = {torch.float16: "f16", torch.bfloat16: "bf16", torch.float32: "f32"}


@dataclass(frozen=True)
class _OnGpu:
    """A matrix [N=rows, K=columns] in the order a GPU's kernels read."""

    words: torch.Tensor
    rows: int
    columns: int

    @property
    def nbytes(self) -> int:
        """Bytes a product reads, padding included."""
        parts = (value for value in vars(self).values() if isinstance(value, torch.Tensor))
        return sum(part.numel() * part.element_size() for part in parts)


@dataclass(frozen=True)
class GpuInt4(_OnGpu):
    """int4: ``words`` int32; scales and zeros (None: symmetric) int32, two float16 each."""

    scales: torch.Tensor
    zeros: torch.Tensor | None
    group_size: int
    activations: ClassVar[torch.dtype] = torch.float16


@dataclass(frozen=True)
class GpuInt8(_OnGpu):
    """int8: ``words`` int32, a scale float32 for each row."""

    scales: torch.Tensor
    activations: ClassVar[torch.dtype] = torch.float16


@dataclass(frozen=True)
class GpuFloat(_OnGpu):
    """float16 or bfloat16 ``words`` int32, or float32 as it is."""

    dtype: torch.dtype

    @property
    def activations(self) -> torch.dtype:
        return self.dtype


def _sent(words: Any, device: Device) -> torch.Tensor:
    """u32 words of the packing functions as int32, which torch has, on ``device``."""
    return torch.from_numpy(words.view(np.int32)).to(device)


def pack_int4(matrix: Int4Matrix, device: Device) -> GpuInt4:
    """``matrix`` (parts on the CPU) on ``device``."""
    check_device(device)
    bits = matrix.scales.contiguous().view(torch.int16).numpy().view(np.uint16)
    zeros = None if matrix.zeros is None else matrix.zeros.numpy()
    words, scales, levels = native_module().cuda_int4_pack(
        matrix.qweight.numpy(), bits, zeros, matrix.columns, matrix.group_size
    )
    sent = None if levels is None else _sent(levels, device)
    rows = matrix.qweight.shape[0]
    return GpuInt4(_sent(words, device), rows, matrix.columns, _sent(scales, device), sent, matrix.group_size)


def pack_int8(matrix: Int8Matrix, device: Device) -> GpuInt8:
    """``matrix`` (parts on the CPU) on ``device``."""
    check_device(device)
    rows, columns = dims("qweight", matrix.qweight, "NK")
    words = native_module().cuda_int8_pack(matrix.qweight.numpy())
    return GpuInt8(_sent(words, device), rows, columns, matrix.scales.to(device))


def pack_float(weight: torch.Tensor, dtype: torch.dtype, device: Device) -> GpuFloat:
    """``weight`` [N, K] on the CPU as ``dtype``, one of ``FLOATS``, on ``device``."""
    check_device(device)
    rows, columns = dims("weight", weight, "NK")
    rounded = weight.detach().to(dtype).contiguous()
    if dtype == torch.float32:
        return GpuFloat(rounded.to(device), rows, columns, dtype)
    bits = rounded.view(torch.int16).numpy().view(np.uint16)
    return GpuFloat(_sent(native_module().cuda_half_pack(bits), device), rows, columns, dtype)


def matmul(
    x: torch.Tensor,
    w: GpuInt4 | GpuInt8 | GpuFloat,
    bias: torch.Tensor | None,
    activation: str | None,
    out: torch.Tensor | None,
    threads: int | None,
) -> torch.Tensor:
    """``act(x Wᵀ + bias)`` [M, N] in the dtype of x or, as ``out``, in float32; x, bias in ``w.activations``."""
    refuse_threads(threads)
    caller, (M, K) = Caller("x", x), dims("x", x, "MK")
    N, dtype = w.rows, w.activations
    out = caller.result(out, dtype, M, N)
    arguments = {
        "y": caller.address("out", out, (dtype, torch.float32), M, N),
        "x": caller.address("x", x, dtype, M, w.columns),
        "bias": caller.optional("bias", bias, dtype, N),
    }
    check_apart(out, x=x, bias=bias)
    if M == 0:
        return out
    kind, group = _kind(w)
    size, zeros = caller.kernels.workspace(kind=kind, m=M, n=N, k=K, group=group)
    workspace = torch.empty(size, dtype=torch.uint8, device=caller.device) if size else None
    if workspace is not None:
        workspace[:zeros].zero_()  # on the same stream, as its memory's next use will be
    product: CudaProduct = native_module().CudaProduct(
        m=M,
        n=N,
        k=K,
        y_is_element=out.dtype == dtype and dtype != torch.float32,
        gelu=activation is not None,
        workspace=0 if workspace is None else workspace.data_ptr(),
        workspace_bytes=size,
        **arguments,
    )
    _run(caller, w, product)
    return out


def _kind(w: GpuInt4 | GpuInt8 | GpuFloat) -> tuple[str, int]:
    """How the core calls the weights, and their group size."""
    if isinstance(w, GpuInt4):
        return "int4", w.group_size
    return ("int8" if isinstance(w, GpuInt8) else FLOATS[w.dtype]), 0


def _run(caller: Caller, w: GpuInt4 | GpuInt8 | GpuFloat, product: CudaProduct) -> None:
    there = {"w": w.words}
    if not isinstance(w, GpuFloat):
        there["w.scales"] = w.scales
    for name, part in there.items():
        if part.device != caller.device:
            raise InvalidArgumentError(f"{name} is on {part.device}, expected {caller.device}, where x is")
    weights = w.words.data_ptr()
    if isinstance(w, GpuInt4):
        zeros = 0 if w.zeros is None else w.zeros.data_ptr()
        caller.kernels.int4_matmul(
            product, group=w.group_size, weights=weights, scales=w.scales.data_ptr(), zeros=zeros
        )
    elif isinstance(w, GpuInt8):
        caller.kernels.int8_matmul(product, weights=weights, row_scales=w.scales.data_ptr())
    elif w.dtype == torch.float32:
        caller.kernels.float_matmul(product, weights=weights)
    else:
        caller.kernels.half_matmul(product, bfloat16=w.dtype == torch.bfloat16, weights=weights)
