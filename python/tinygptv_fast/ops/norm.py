"""LayerNorm, RMSNorm and the sum of a layer's branches, row by row in float32.

A row of the result depends on the same row of the inputs alone, bit for bit on every instruction set.
csrc/kernels/cpu/norm.h has the arithmetic, ``reference.norm`` the slow twins.
"""

from __future__ import annotations

import torch

from ..env import read_settings
from ..errors import InvalidArgumentError
from .gpu import norm as gpu
from .tensors import DEVICES, buffer_of, native_module, on_gpu


def layer_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float = 1e-5, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """``(x − mean) / sqrt(var + eps) · weight + bias`` float32 [T, C] of x float32 [T, C]; weight, bias float32 [C].

    ``out`` float32 [T, C] is written and returned; it may be ``x``. All tensors are contiguous and on the CPU; there is
    no gradient. Raises ``InvalidArgumentError`` for a wrong type, dtype, device, shape or stride or eps <= 0,
    ``UnsupportedError`` for an instruction set (``TINYGPTV_CPU_ISA``) this CPU lacks or a tensor that requires a
    gradient.
    """
    if torch.compiler.is_compiling() and out is None:
        return torch.ops.tinygptv_fast.layer_norm(x, weight, bias, eps)
    if on_gpu(x):
        return gpu.layer_norm(x, weight, bias, _number("eps", eps), out)
    x_buffer = buffer_of("x", x, torch.float32)
    out = torch.empty_like(x, memory_format=torch.contiguous_format) if out is None else out
    native_module().layer_norm(
        buffer_of("out", out, torch.float32),
        x_buffer,
        buffer_of("weight", weight, torch.float32),
        buffer_of("bias", bias, torch.float32),
        _number("eps", eps),
        read_settings().cpu_isa,
    )
    return out


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-5, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """``x / sqrt(mean(x²) + eps) · weight`` float32 [T, C] of x float32 [T, C]; weight float32 [C].

    ``out`` and errors as in ``layer_norm``.
    """
    if torch.compiler.is_compiling() and out is None:
        return torch.ops.tinygptv_fast.rms_norm(x, weight, eps)
    if on_gpu(x):
        return gpu.rms_norm(x, weight, _number("eps", eps), out)
    x_buffer = buffer_of("x", x, torch.float32)
    out = torch.empty_like(x, memory_format=torch.contiguous_format) if out is None else out
    native_module().rms_norm(
        buffer_of("out", out, torch.float32),
        x_buffer,
        buffer_of("weight", weight, torch.float32),
        _number("eps", eps),
        read_settings().cpu_isa,
    )
    return out


def add_branches(
    x: torch.Tensor,
    attention: torch.Tensor,
    mlp: torch.Tensor,
    weight: torch.Tensor | None = None,
    eps: float = 1e-5,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """``x + (rms_norm(attention, weight, eps) + mlp)``, or ``x + (attention + mlp)`` without weight; float32 [T, C].

    ``out`` may be ``x`` (the residual is then updated in place) but neither branch. Errors as in ``layer_norm``.
    """
    if torch.compiler.is_compiling() and out is None:
        return torch.ops.tinygptv_fast.add_branches(x, attention, mlp, weight, eps)
    if on_gpu(x):
        return gpu.add_branches(x, attention, mlp, weight, _number("eps", eps), out)
    buffer_of("x", x, torch.float32)
    if out is None:
        out = x.clone(memory_format=torch.contiguous_format)
    elif out is not x:
        buffer_of("out", out, torch.float32)
        if out.shape != x.shape:
            raise InvalidArgumentError(f"out is {list(out.shape)}, expected {list(x.shape)}, the shape of x")
        out.copy_(x)
    native_module().add_branches(
        buffer_of("out", out, torch.float32),
        buffer_of("attention", attention, torch.float32),
        buffer_of("mlp", mlp, torch.float32),
        None if weight is None else buffer_of("weight", weight, torch.float32),
        _number("eps", eps),
        read_settings().cpu_isa,
    )
    return out


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidArgumentError(f"{name} is {value!r}, expected a number")
    return float(value)


@torch.library.custom_op("tinygptv_fast::layer_norm", mutates_args=(), device_types=DEVICES)
def _layer_norm_op(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    return layer_norm(x, weight, bias, eps)


@torch.library.custom_op("tinygptv_fast::rms_norm", mutates_args=(), device_types=DEVICES)
def _rms_norm_op(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    return rms_norm(x, weight, eps)


@torch.library.custom_op("tinygptv_fast::add_branches", mutates_args=(), device_types=DEVICES)
def _add_branches_op(
    x: torch.Tensor, attention: torch.Tensor, mlp: torch.Tensor, weight: torch.Tensor | None = None, eps: float = 1e-5
) -> torch.Tensor:
    return add_branches(x, attention, mlp, weight, eps)


def _like_rows(x: torch.Tensor) -> torch.Tensor:
    if x.dim() != 2 or x.dtype != torch.float32:
        raise InvalidArgumentError(f"x is {list(x.shape)} {x.dtype}, expected [T, C] torch.float32")
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_layer_norm_op.register_fake
def _layer_norm_fake(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    return _like_rows(x)


@_rms_norm_op.register_fake
def _rms_norm_fake(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    return _like_rows(x)


@_add_branches_op.register_fake
def _add_branches_fake(
    x: torch.Tensor, attention: torch.Tensor, mlp: torch.Tensor, weight: torch.Tensor | None = None, eps: float = 1e-5
) -> torch.Tensor:
    return _like_rows(x)
