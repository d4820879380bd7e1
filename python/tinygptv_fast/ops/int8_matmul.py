"""Products with int8 weights: ``pack_int8`` reorders a matrix once, ``int8_matmul`` multiplies by it.

Activations are rounded to int8 per row and 32 columns, dot products of 32 are exact integers; a row's sum is one chain
of float32 FMAs over them, multiplied once by the scale of the weight row. Row m of the result depends on row m of x and
on the weights alone, bit for bit, whatever the other rows, the threads or the instruction set.
csrc/kernels/cpu/linear.h has the arithmetic and the layout, ``reference.int8_matmul`` the slow twin.
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


class Int8Matrix(Protocol):
    """What ``quantize.int8.Int8Tensor`` has: value = q·s, one scale a row."""

    @property
    def qweight(self) -> torch.Tensor: ...
    @property
    def scales(self) -> torch.Tensor: ...


@dataclass(frozen=True)
class PackedInt8:
    """A matrix [N=rows, K=columns] in the order the kernels stream: ``data`` uint8, one run of bytes, the same for
    every instruction set."""

    data: torch.Tensor
    rows: int
    columns: int

    @property
    def nbytes(self) -> int:
        """Bytes a product reads, padding of N and K included."""
        return self.data.numel()


@overload
def pack_int8(matrix: Int8Matrix, *, threads: int | None = None, device: None = None) -> PackedInt8: ...
@overload
def pack_int8(matrix: Int8Matrix, *, threads: int | None = None, device: gpu.Device) -> gpu.GpuInt8: ...
def pack_int8(
    matrix: Int8Matrix, *, threads: int | None = None, device: gpu.Device | None = None
) -> PackedInt8 | gpu.GpuInt8:
    """``matrix`` (an ``Int8Tensor``: qweight int8 [N, K], scales float32 [N]) in streamed order; with a ``device``
    ("cuda") for the GPU's kernels, there.

    N is padded to 16 and K to 32. Raises ``InvalidArgumentError`` for parts of a wrong shape, dtype or device and
    ``CheckpointError`` for a scale that is not finite.
    """
    for name in ("qweight", "scales"):
        if not hasattr(matrix, name):
            raise InvalidArgumentError(f"matrix is {type(matrix).__name__}, expected an Int8Tensor")
    native = native_module()
    count = thread_count(threads, read_settings())
    qweight = buffer_of("qweight", matrix.qweight, torch.int8)
    scales = buffer_of("scales", matrix.scales, torch.float32)
    if not bool(torch.isfinite(matrix.scales).all()):
        raise CheckpointError("scales of an int8 matrix hold NaN or infinity, expected finite float32")
    if qweight.ndim != 2:
        raise InvalidArgumentError(f"qweight is {list(qweight.shape)} int8, expected [N, K]")
    rows, columns = qweight.shape
    if device is not None:
        return gpu.pack_int8(matrix, device)
    data = allocate(native.int8_packed_bytes(rows, columns))
    native.int8_pack(data.numpy(), qweight, scales, count)
    return PackedInt8(data, rows, columns)


def int8_matmul(
    x: torch.Tensor,
    w: PackedInt8 | gpu.GpuInt8,
    bias: torch.Tensor | None = None,
    *,
    activation: str | None = None,
    out: torch.Tensor | None = None,
    threads: int | None = None,
) -> torch.Tensor:
    """``act(x Wᵀ + bias)`` float32 [M, N] of x float32 [M, K] (M >= 0) and packed int8 W [N, K]; bias float32 [N].

    Options, errors and what NaN and vanishing activations do are as in ``int4_matmul``.
    """
    if isinstance(w, gpu.GpuInt8):
        check_activation(activation)
        return gpu.matmul(x, w, bias, activation, out, threads)
    if not isinstance(w, PackedInt8):
        raise InvalidArgumentError(f"w is {type(w).__name__}, expected a PackedInt8 (pack_int8 makes one)")
    check_activation(activation)
    if torch.compiler.is_compiling() and out is None:
        return torch.ops.tinygptv_fast.int8_matmul(x, w.data, bias, w.rows, w.columns, activation, threads)
    return _run(x, w, bias, activation, out, threads)


def _run(
    x: torch.Tensor,
    w: PackedInt8,
    bias: torch.Tensor | None,
    activation: str | None,
    out: torch.Tensor | None,
    threads: int | None,
) -> torch.Tensor:
    return multiply(native_module().int8_matmul, x, w.data, w.rows, (w.columns,), bias, activation, out, threads)


@torch.library.custom_op("tinygptv_fast::int8_matmul", mutates_args=(), device_types="cpu")
def _int8_matmul_op(
    x: torch.Tensor,
    packed: torch.Tensor,
    bias: torch.Tensor | None,
    rows: int,
    columns: int,
    activation: str | None = None,
    threads: int | None = None,
) -> torch.Tensor:
    """``int8_matmul`` over the parts of a ``PackedInt8``: what torch.compile calls."""
    return _run(x, PackedInt8(packed, rows, columns), bias, activation, None, threads)


@_int8_matmul_op.register_fake
def _int8_matmul_fake(
    x: torch.Tensor,
    packed: torch.Tensor,
    bias: torch.Tensor | None,
    rows: int,
    columns: int,
    activation: str | None = None,
    threads: int | None = None,
) -> torch.Tensor:
    return fake_product(x, rows, columns)
