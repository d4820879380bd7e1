"""Products with float weights: ``pack_float`` reorders a matrix once, to f32 or bf16, ``matmul`` multiplies by it.

Activations, products and sums are float32: one chain of FMAs in ascending k for each output, whatever the other rows,
the threads or the instruction set, bit for bit. bfloat16 weights are widened, which is exact. This is the exact mode.
csrc/kernels/cpu/linear.h has the layout, ``reference.matmul`` the slow twin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import overload

import torch

from ..env import read_settings
from ..errors import InvalidArgumentError
from .gpu import products as gpu
from .packed import allocate, check_activation, fake_product, multiply
from .tensors import buffer_of, native_module, thread_count

KINDS = {torch.float32: "f32", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class PackedFloat:
    """A matrix [N=rows, K=columns] of ``kind`` "f32" or "bf16" in the order the kernels stream: ``data`` uint8, one run
    of bytes, the same for every instruction set."""

    data: torch.Tensor
    rows: int
    columns: int
    kind: str

    @property
    def nbytes(self) -> int:
        """Bytes a product reads, padding of N (and of K to even in bf16) included."""
        return self.data.numel()


@overload
def pack_float(
    weight: torch.Tensor, *, dtype: torch.dtype = ..., threads: int | None = None, device: None = None
) -> PackedFloat: ...
@overload
def pack_float(
    weight: torch.Tensor, *, dtype: torch.dtype = ..., threads: int | None = None, device: gpu.Device
) -> gpu.GpuFloat: ...
def pack_float(
    weight: torch.Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    threads: int | None = None,
    device: gpu.Device | None = None,
) -> PackedFloat | gpu.GpuFloat:
    """``weight`` float32 or bfloat16 [N, K] in streamed order, stored as ``dtype`` (float32, or bfloat16 rounded to
    nearest even); with a ``device`` ("cuda") for the GPU's kernels, there, also as float16. N is padded to 16. Raises
    ``InvalidArgumentError`` for a wrong shape, dtype, device or stride.
    """
    if dtype not in (KINDS if device is None else gpu.FLOATS):
        allowed = " or ".join(map(str, KINDS if device is None else gpu.FLOATS))
        raise InvalidArgumentError(f"dtype is {dtype}, expected {allowed}")
    native = native_module()
    count = thread_count(threads, read_settings())
    if isinstance(weight, torch.Tensor) and weight.dtype == torch.bfloat16:
        weight = weight.float()
    weights = buffer_of("weight", weight, torch.float32)
    if weights.ndim != 2:
        raise InvalidArgumentError(f"weight is {list(weights.shape)} {weight.dtype}, expected [N, K]")
    rows, columns = weights.shape
    if device is not None:
        return gpu.pack_float(weight, dtype, device)
    data = allocate(native.float_packed_bytes(rows, columns, KINDS[dtype]))
    native.float_pack(data.numpy(), weights, KINDS[dtype], count)
    return PackedFloat(data, rows, columns, KINDS[dtype])


def matmul(
    x: torch.Tensor,
    w: PackedFloat | gpu.GpuFloat,
    bias: torch.Tensor | None = None,
    *,
    activation: str | None = None,
    out: torch.Tensor | None = None,
    threads: int | None = None,
) -> torch.Tensor:
    """``act(x Wᵀ + bias)`` float32 [M, N] of x float32 [M, K] (M >= 0) and packed W [N, K]; bias float32 [N].

    Options and errors are as in ``int4_matmul``; NaN and infinity go the way of float32 arithmetic.
    """
    if isinstance(w, gpu.GpuFloat):
        check_activation(activation)
        return gpu.matmul(x, w, bias, activation, out, threads)
    if not isinstance(w, PackedFloat):
        raise InvalidArgumentError(f"w is {type(w).__name__}, expected a PackedFloat (pack_float makes one)")
    check_activation(activation)
    if torch.compiler.is_compiling() and out is None:
        return torch.ops.tinygptv_fast.matmul(x, w.data, bias, w.rows, w.columns, w.kind, activation, threads)
    return _run(x, w, bias, activation, out, threads)


def _run(
    x: torch.Tensor,
    w: PackedFloat,
    bias: torch.Tensor | None,
    activation: str | None,
    out: torch.Tensor | None,
    threads: int | None,
) -> torch.Tensor:
    sizes = (w.columns, w.kind)
    return multiply(native_module().matmul, x, w.data, w.rows, sizes, bias, activation, out, threads)


@torch.library.custom_op("tinygptv_fast::matmul", mutates_args=(), device_types="cpu")
def _matmul_op(
    x: torch.Tensor,
    packed: torch.Tensor,
    bias: torch.Tensor | None,
    rows: int,
    columns: int,
    kind: str,
    activation: str | None = None,
    threads: int | None = None,
) -> torch.Tensor:
    """``matmul`` over the parts of a ``PackedFloat``: what torch.compile calls."""
    return _run(x, PackedFloat(packed, rows, columns, kind), bias, activation, None, threads)


@_matmul_op.register_fake
def _matmul_fake(
    x: torch.Tensor,
    packed: torch.Tensor,
    bias: torch.Tensor | None,
    rows: int,
    columns: int,
    kind: str,
    activation: str | None = None,
    threads: int | None = None,
) -> torch.Tensor:
    return fake_product(x, rows, columns)
