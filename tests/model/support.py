"""Small backbones in two forms: the reference module, and the same weights packed for the native decoder."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from tinygptv_fast import _native
from tinygptv_fast.config import TextConfig
from tinygptv_fast.quantize.int4 import Int4Tensor, quantize_int4
from tinygptv_fast.quantize.int8 import Int8Tensor, quantize_int8
from tinygptv_fast.reference.phi import PhiBackbone

MATRICES = ("attn.qkv", "mlp.fc1", "attn.out", "mlp.fc2")
Stored = torch.Tensor | Int4Tensor | Int8Tensor


def small_config(**changes: object) -> TextConfig:
    sizes: dict[str, object] = {
        "width": 96,
        "layers": 3,
        "heads": 4,
        "head_dim": 24,
        "rotary_dims": 10,
        "mlp_width": 208,
        "vocab_size": 301,
        "max_positions": 640,
    }
    return TextConfig(**{**sizes, **changes})  # type: ignore[arg-type]


def random_backbone(config: TextConfig, seed: int = 0) -> PhiBackbone:
    """Norms and biases away from 1 and 0, so that leaving one out shows."""
    torch.manual_seed(seed)
    model = PhiBackbone(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif name == "embed.weight":
                parameter.normal_()
            else:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
    return model.eval().requires_grad_(False)


def _is_matrix(name: str) -> bool:
    return name == "head.weight" or any(name.endswith(f"{matrix}.weight") for matrix in MATRICES)


def stored_tensors(model: PhiBackbone, form: str, group_size: int = 32, symmetric: bool = True) -> dict[str, Stored]:
    """Canonical name without "text." → the tensor as a directory of this form would hold it."""
    out: dict[str, Stored] = {}
    for name, tensor in model.state_dict().items():
        if name == "embed.weight":
            out[name] = quantize_int8(tensor) if form in ("int4", "int8") else tensor
        elif _is_matrix(name) and form == "int4":
            out[name] = quantize_int4(tensor, group_size, symmetric)
        elif _is_matrix(name) and form == "int8":
            out[name] = quantize_int8(tensor)
        else:
            out[name] = tensor
    return out


def pack(config: TextConfig, tensors: dict[str, Stored], form: str, group_size: int = 32, symmetric: bool = True,
         embedding: str | None = None) -> _native.Weights:  # fmt: skip
    matrix = (form, group_size, symmetric)
    kind = embedding or ("int8" if form in ("int4", "int8") else form)
    forms = {"body": matrix, "head": matrix, "embedding": kind}
    weights = _native.Weights(dataclasses.asdict(config), forms, "test")
    for name, tensor in tensors.items():
        put(weights, f"text.{name}", tensor)
    return weights


def put(weights: _native.Weights, name: str, tensor: Stored) -> None:
    stem = name.removesuffix(".weight")
    if isinstance(tensor, Int4Tensor):
        zeros = None if tensor.zeros is None else tensor.zeros.numpy()
        weights.put_int4(stem, tensor.qweight.numpy(), tensor.scales.numpy(), zeros, threads=1)
    elif isinstance(tensor, Int8Tensor):
        weights.put_int8(stem, tensor.qweight.numpy(), tensor.scales.numpy(), threads=1)
    elif tensor.ndim == 2:
        weights.put_f32(stem, tensor.numpy(), threads=1)
    else:
        weights.put_vector(name, tensor.numpy())


def ids(count: int, vocab: int, seed: int = 1) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(0, vocab, count)]
