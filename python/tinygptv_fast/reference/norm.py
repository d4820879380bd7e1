"""Slow twins of ``ops.layer_norm``, ``rms_norm`` and ``add_branches``: the formulas in float64, rounded once."""

from __future__ import annotations

import torch


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """``(x − mean) / sqrt(var + eps) · weight + bias`` float32 [T, C] of x float32 [T, C]; weight, bias float32 [C]."""
    x_TC = x.double()
    centered = x_TC - x_TC.mean(-1, keepdim=True)
    variance = centered.square().mean(-1, keepdim=True)
    return (centered / (variance + eps).sqrt() * weight.double() + bias.double()).float()


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """``x / sqrt(mean(x²) + eps) · weight`` float32 [T, C] of x float32 [T, C]; weight float32 [C]."""
    return _rms_norm(x, weight, eps).float()


def add_branches(
    x: torch.Tensor, attention: torch.Tensor, mlp: torch.Tensor, weight: torch.Tensor | None = None, eps: float = 1e-5
) -> torch.Tensor:
    """``x + rms_norm(attention, weight, eps) + mlp``, or ``x + attention + mlp`` without weight; float32 [T, C]."""
    branch = attention.double() if weight is None else _rms_norm(attention, weight, eps)
    return (x.double() + (branch + mlp.double())).float()


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    x_TC = x.double()
    return x_TC / (x_TC.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()
