"""LayerNorm, RMSNorm and the sum of a layer's branches on a GPU. csrc/kernels/cuda/norm.h."""

from __future__ import annotations

import torch

from .caller import Caller, check_apart, dims


def layer_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, out: torch.Tensor | None
) -> torch.Tensor:
    """float32 [T, C] of x float32 [T, C], C a multiple of 4 up to 8192. Raises ``InvalidArgumentError``."""
    return _norm(x, weight, bias, eps, out)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor | None) -> torch.Tensor:
    """As ``layer_norm``."""
    return _norm(x, weight, None, eps, out)


def _norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float, out: torch.Tensor | None
) -> torch.Tensor:
    caller, (T, C) = Caller("x", x), dims("x", x, "TC")
    out = caller.result(out, torch.float32, T, C)
    arguments = {
        "y": caller.address("out", out, torch.float32, T, C),
        "x": caller.address("x", x, torch.float32, T, C),
        "weight": caller.address("weight", weight, torch.float32, C),
        "bias": caller.optional("bias", bias, torch.float32, C),
    }
    check_apart(out, weight=weight, bias=bias, x=None if out.data_ptr() == x.data_ptr() else x)
    if T:
        caller.kernels.norm(rows=T, width=C, is_rms=bias is None, eps=eps, **arguments)
    return out


def add_branches(
    x: torch.Tensor,
    attention: torch.Tensor,
    mlp: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    out: torch.Tensor | None,
) -> torch.Tensor:
    """x + (rms_norm(attention) + mlp), or x + (attention + mlp); float32 [T, C]. Raises ``InvalidArgumentError``."""
    caller, (T, C) = Caller("x", x), dims("x", x, "TC")
    out = caller.result(out, torch.float32, T, C)
    arguments = {
        "sum": caller.address("out", out, torch.float32, T, C),
        "x": caller.address("x", x, torch.float32, T, C),
        "attention": caller.address("attention", attention, torch.float32, T, C),
        "mlp": caller.address("mlp", mlp, torch.float32, T, C),
        "rms_weight": caller.optional("weight", weight, torch.float32, C),
    }
    check_apart(out, attention=attention, mlp=mlp, weight=weight, x=None if out.data_ptr() == x.data_ptr() else x)
    if T:
        caller.kernels.add_branches(rows=T, width=C, eps=eps, **arguments)
    return out
