"""Slow twin of the native decoder step: the backbone on stored weights, rounding where the engine rounds.

Activations of int4 and int8 matrices are rounded to int8 in groups of 32, K and V to the kind of the cache before
anybody reads them (int8: queries and weights of attention to int16), the token embedding as it is stored. Everything
else is float64, rounded to float32 where the engine keeps float32 between phases. Knows whole sequences, no cache, no
batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import TextConfig
from ..errors import InvalidArgumentError
from ..quantize.int4 import Int4Tensor
from ..quantize.int8 import Int8Tensor
from .int4_matmul import int4_matmul
from .int8_matmul import int8_matmul
from .paged_attention import attend, round_rows
from .phi import apply_rotary, rotary_tables

Stored = Tensor | Int4Tensor | Int8Tensor
KV_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}


def quantized_logits(config: TextConfig, tensors: Mapping[str, Stored], inputs: Tensor, kv_kind: str) -> Tensor:
    """Logits float32 [T, V] of every position.

    tensors: canonical name without ``text.`` → as a directory stores it; inputs: int64 ids [T] or float32 embeddings
    [T, C]; kv_kind: ``f32``, ``f16``, ``bf16`` or ``int8``.
    """
    return _Twin(config, tensors, kv_kind).logits(inputs)


class _Twin:
    def __init__(self, config: TextConfig, tensors: Mapping[str, Stored], kv_kind: str) -> None:
        self.config, self.tensors, self.kv_kind = config, tensors, kv_kind

    def logits(self, inputs: Tensor) -> Tensor:
        x = inputs.float() if inputs.is_floating_point() else self.embed(inputs)
        for layer in range(self.config.layers):
            x = self.layer(x, f"layers.{layer}.")
        return self.matmul(self.layer_norm(x, "final_norm", self.config.norm_eps), "head")

    def embed(self, ids: Tensor) -> Tensor:
        table = self.tensors["embed.weight"]
        if isinstance(table, Int4Tensor):
            raise InvalidArgumentError("embed.weight is int4, expected int8 or floats")
        if isinstance(table, Int8Tensor):
            return table.qweight[ids].float() * table.scales[ids, None]
        return table[ids].float()

    def layer(self, x: Tensor, prefix: str) -> Tensor:
        h = self.layer_norm(x, f"{prefix}norm", self.config.norm_eps)
        mixed = self.attention(self.matmul(h, f"{prefix}attn.qkv"), prefix)
        attention = self.matmul(mixed, f"{prefix}attn.out").double()
        if self.config.post_attention_norm:
            scale = torch.rsqrt(attention.square().mean(-1, keepdim=True) + self.config.rms_norm_eps)
            attention = attention * scale * self.vector(f"{prefix}attn.post_norm.weight")
        gelu = self.matmul(h, f"{prefix}mlp.fc1", activation="gelu_tanh")
        mlp = self.matmul(gelu, f"{prefix}mlp.fc2").double()
        return (x.double() + attention + mlp).float()

    def attention(self, qkv: Tensor, prefix: str) -> Tensor:
        c = self.config
        T = qkv.shape[0]
        q, k, v = qkv.view(T, c.heads, 3, c.head_dim).unbind(2)
        if c.qk_norm:
            q = self.layer_norm(q, f"{prefix}attn.q_norm", c.norm_eps)
            k = self.layer_norm(k, f"{prefix}attn.k_norm", c.norm_eps)
        rotary = rotary_tables(torch.arange(T), c.rotary_dims, c.rope_theta)
        q, k = (apply_rotary(part.transpose(0, 1)[None], *rotary)[0] for part in (q, k))  # [H, T, D]
        k, k_scales = round_rows(k.transpose(0, 1), KV_DTYPES[self.kv_kind])  # [T, H, D]
        v, v_scales = round_rows(v, KV_DTYPES[self.kv_kind])
        keys = k.double() if k_scales is None else k.double() * k_scales.double()[..., None]
        steps = None if v_scales is None else v_scales.double()
        values, queries = v.double(), q.transpose(0, 1)

        def row(t: int) -> Tensor:
            seen = slice(t + 1)
            return attend(
                queries[t], keys[seen], values[seen], None if steps is None else steps[seen], c.head_dim**-0.5
            )

        return torch.stack([row(t) for t in range(T)]).reshape(T, c.width)

    def matmul(self, x: Tensor, name: str, activation: str | None = None) -> Tensor:
        weight, bias = self.tensors[f"{name}.weight"], self.tensor(f"{name}.bias")
        if isinstance(weight, Int4Tensor):
            return int4_matmul(x, weight, bias, activation=activation)
        if isinstance(weight, Int8Tensor):
            return int8_matmul(x, weight, bias, activation=activation)
        y = F.linear(x.double(), weight.double(), bias.double())
        return (F.gelu(y, approximate="tanh") if activation else y).float()

    def layer_norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        weight, bias = self.vector(f"{name}.weight"), self.vector(f"{name}.bias")
        return F.layer_norm(x.double(), (x.shape[-1],), weight, bias, eps).float()

    def vector(self, name: str) -> Tensor:
        return self.tensor(name).double()

    def tensor(self, name: str) -> Tensor:
        tensor = self.tensors[name]
        if not isinstance(tensor, Tensor):
            raise InvalidArgumentError(f"{name} is quantised, expected a plain tensor")
        return tensor
