"""Products with int4 weights: ``pack_int4`` reorders a matrix once, ``int4_matmul`` multiplies by it.

Activations are rounded to int8 per row and 32 columns, dot products of 32 are exact integers, and their sum is one
chain of float32 FMAs: row m of the result depends on row m of x and on the weights alone, bit for bit, whatever the
other rows, the threads or the instruction set. csrc/kernels/cpu/linear.h has the arithmetic and the layout,
``reference.int4_matmul`` the slow twin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, overload

import torch

from ..env import read_settings
from ..errors import CheckpointError, InvalidArgumentError
from .gpu import products as gpu
from .packed import allocate, check_activation, fake_product, multiply
from .tensors import buffer_of, native_module, thread_count


class Int4Matrix(Protocol):
    """What ``quantize.int4.Int4Tensor`` has: value = (q − z)·s, q two to a byte."""

    @property
    def qweight(self) -> torch.Tensor: ...
    @property
    def scales(self) -> torch.Tensor: ...
    @property
    def zeros(self) -> torch.Tensor | None: ...
    @property
    def columns(self) -> int: ...
    @property
    def group_size(self) -> int: ...


@dataclass(frozen=True)
class PackedInt4:
    """A matrix [N=rows, K=columns] in the order the kernels stream: ``data`` uint8, one run of bytes, the same for
    every instruction set."""

    data: torch.Tensor
    rows: int
    columns: int
    group_size: int
    symmetric: bool

    @property
    def nbytes(self) -> int:
        """Bytes a product reads, padding of N and K included."""
        return self.data.numel()


@overload
def pack_int4(matrix: Int4Matrix, *, threads: int | None = None, device: None = None) -> PackedInt4: ...
@overload
def pack_int4(matrix: Int4Matrix, *, threads: int | None = None, device: gpu.Device) -> gpu.GpuInt4: ...
def pack_int4(
    matrix: Int4Matrix, *, threads: int | None = None, device: gpu.Device | None = None
) -> PackedInt4 | gpu.GpuInt4:
    """``matrix`` (an ``Int4Tensor``: qweight uint8 [N, ceil(K/2)], scales float16, zeros or None) in streamed order;
    with a ``device`` ("cuda") for the GPU's kernels, there.

    N is padded to 16 and K to 32. Raises ``InvalidArgumentError`` for parts of a wrong shape, dtype or device and
    ``CheckpointError`` for a scale that is not finite.
    """
    for name in ("qweight", "scales", "zeros", "columns", "group_size"):
        if not hasattr(matrix, name):
            raise InvalidArgumentError(f"matrix is {type(matrix).__name__}, expected an Int4Tensor")
    native = native_module()
    count = thread_count(threads, read_settings())
    qweight = buffer_of("qweight", matrix.qweight, torch.uint8)
    scales = buffer_of("scales", matrix.scales, torch.float16)
    zeros = None if matrix.zeros is None else buffer_of("zeros", matrix.zeros, torch.uint8)
    if not bool(torch.isfinite(matrix.scales).all()):
        raise CheckpointError("scales of an int4 matrix hold NaN or infinity, expected finite float16")
    rows = qweight.shape[0] if qweight.ndim else 0
    symmetric = zeros is None
    if device is not None:
        return gpu.pack_int4(matrix, device)
    size = native.int4_packed_bytes(rows, matrix.columns, matrix.group_size, symmetric)
    data = allocate(size)
    native.int4_pack(data.numpy(), qweight, scales, zeros, matrix.columns, matrix.group_size, count)
    return PackedInt4(data, rows, matrix.columns, matrix.group_size, symmetric)


def int4_matmul(
    x: torch.Tensor,
    w: PackedInt4 | gpu.GpuInt4,
    bias: torch.Tensor | None = None,
    *,
    activation: str | None = None,
    out: torch.Tensor | None = None,
    threads: int | None = None,
) -> torch.Tensor:
    """``act(x Wᵀ + bias)`` float32 [M, N] of x float32 [M, K] (M >= 0) and packed int4 W [N, K]; bias float32 [N].

    activation: None or "gelu_tanh" (torch's ``gelu(approximate="tanh")``). ``out`` float32 [M, N], contiguous and
    apart from the inputs, is written and returned. ``threads``: None means ``TINYGPTV_THREADS``, else the physical
    cores. All tensors are contiguous and on the CPU; there is no gradient. A row of x that holds NaN or infinity gives
    a row of NaN; 32 activations all below 2^-100 count as zeros.

    Raises ``InvalidArgumentError`` for a wrong type, dtype, device, shape or stride, ``UnsupportedError`` for an
    instruction set (``TINYGPTV_CPU_ISA``) this CPU lacks or a tensor that requires a gradient.
    """
    if isinstance(w, gpu.GpuInt4):
        check_activation(activation)
        return gpu.matmul(x, w, bias, activation, out, threads)
    if not isinstance(w, PackedInt4):
        raise InvalidArgumentError(f"w is {type(w).__name__}, expected a PackedInt4 (pack_int4 makes one)")
    check_activation(activation)
    if torch.compiler.is_compiling() and out is None:
        return torch.ops.tinygptv_fast.int4_matmul(
            x, w.data, bias, w.rows, w.columns, w.group_size, w.symmetric, activation, threads
        )
    return _run(x, w, bias, activation, out, threads)


def _run(
    x: torch.Tensor,
    w: PackedInt4,
    bias: torch.Tensor | None,
    activation: str | None,
    out: torch.Tensor | None,
    threads: int | None,
) -> torch.Tensor:
    sizes = (w.columns, w.group_size, w.symmetric)
    return multiply(native_module().int4_matmul, x, w.data, w.rows, sizes, bias, activation, out, threads)


@torch.library.custom_op("tinygptv_fast::int4_matmul", mutates_args=(), device_types="cpu")
def _int4_matmul_op(
    x: torch.Tensor,
    packed: torch.Tensor,
    bias: torch.Tensor | None,
    rows: int,
    columns: int,
    group_size: int,
    symmetric: bool,
    activation: str | None = None,
    threads: int | None = None,
) -> torch.Tensor:
    """``int4_matmul`` over the parts of a ``PackedInt4``: what torch.compile calls."""
    return _run(x, PackedInt4(packed, rows, columns, group_size, symmetric), bias, activation, None, threads)


@_int4_matmul_op.register_fake
def _int4_matmul_fake(
    x: torch.Tensor,
    packed: torch.Tensor,
    bias: torch.Tensor | None,
    rows: int,
    columns: int,
    group_size: int,
    symmetric: bool,
    activation: str | None = None,
    threads: int | None = None,
) -> torch.Tensor:
    return fake_product(x, rows, columns)
