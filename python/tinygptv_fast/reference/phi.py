"""The Phi backbone: stock Phi-1/1.5/2, or TinyGPT-V's variant with q/k LayerNorm and a post-attention RMSNorm.

One layer, as the original codes it (modeling_phi.py:680; the paper's Fig. 5 feeds the MLP from x instead):

    h   = LayerNorm(x)
    out = x + RMSNorm(attention(h) Wo + bo) + MLP(h)

with q, k = LayerNorm over the head dim, *before* rotary, one affine shared by all heads. The residual stream and the
softmax are float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import LoraConfig, TextConfig
from ..errors import InvalidArgumentError
from .lora import LoraLinear


class KVCache:
    """Keys and values of every layer, [B, H, T, D] each; grows by concatenation. A clear cache, not a fast one."""

    def __init__(self, layers: int) -> None:
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers

    @property
    def length(self) -> int:
        """Positions stored so far."""
        return 0 if self.keys[0] is None else self.keys[0].shape[2]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add k, v [B, H, T, D] to ``layer`` and return all its keys and values."""
        old_k, old_v = self.keys[layer], self.values[layer]
        if old_k is not None and old_v is not None:
            k, v = torch.cat([old_k, k], dim=2), torch.cat([old_v, v], dim=2)
        self.keys[layer], self.values[layer] = k, v
        return k, v

    def select(self, rows: Tensor) -> None:
        """Keep batch rows ``rows`` int64 [B'] in that order: beams fork and die this way."""
        self.keys = [None if k is None else k[rows] for k in self.keys]
        self.values = [None if v is None else v[rows] for v in self.values]


class RMSNorm(nn.Module):
    """w · x / sqrt(mean(x²) + eps), statistics in float32 (LlamaRMSNorm as used at modeling_phi.py:66)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x [..., C] → [..., C]."""
        variance = x.float().pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(variance + self.eps))


def rotary_tables(positions: Tensor, dims: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos, sin f32 [T, dims] for int positions [T]: angle of pair i is p · theta^(-2i/dims), halves repeated."""
    inverse = 1.0 / theta ** (torch.arange(0, dims, 2, dtype=torch.int64, device=positions.device).float() / dims)
    angles = torch.outer(positions.float(), inverse)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first R dims of x [B, H, T, D], pairing dim i with i + R/2 (NeoX halves); the rest passes through."""
    R = cos.shape[-1]
    turned, rest = x[..., :R], x[..., R:]
    swapped = torch.cat([-turned[..., R // 2 :], turned[..., : R // 2]], dim=-1)
    return torch.cat([turned * cos + swapped * sin, rest], dim=-1)


def causal_mask(attention_mask: Tensor | None, query_length: int, key_length: int, device: torch.device) -> Tensor:
    """Additive f32 mask [B or 1, 1, T, S]: 0 where query t may read key s, the lowest float elsewhere.

    A key is readable if it is not later than the query and ``attention_mask`` [B, S] is 1 there. The lowest float,
    not -inf, so that a fully masked row (left padding) stays finite, as in the original.
    """
    lowest = torch.finfo(torch.float32).min
    query = torch.arange(key_length - query_length, key_length, device=device)
    allowed = query[:, None] >= torch.arange(key_length, device=device)[None, :]
    allowed = allowed[None, None]
    if attention_mask is not None:
        allowed = allowed & attention_mask[:, None, None, :].bool()
    return torch.zeros(allowed.shape, device=device).masked_fill(~allowed, lowest)


class PhiAttention(nn.Module):
    """Self-attention with a fused qkv whose rows are [H, 3, D]: per-head interleave (modeling_phi.py:317)."""

    def __init__(self, config: TextConfig, lora: LoraConfig | None) -> None:
        super().__init__()
        self.config = config
        self.qkv = LoraLinear(config.width, 3 * config.width, lora)
        self.out = LoraLinear(config.width, config.width, lora)
        if config.qk_norm:
            self.q_norm = nn.LayerNorm(config.head_dim, eps=config.norm_eps)
            self.k_norm = nn.LayerNorm(config.head_dim, eps=config.norm_eps)
        if config.post_attention_norm:
            self.post_norm = RMSNorm(config.width, config.rms_norm_eps)

    def _qkv(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        B, T, _ = h.shape
        q, k, v = self.qkv(h).view(B, T, self.config.heads, 3, self.config.head_dim).unbind(dim=3)
        if self.config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def forward(
        self, h: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor, cache: KVCache | None, index: int
    ) -> Tensor:
        """h [B, T, C] → [B, T, C], post-attention norm included; appends to ``cache`` layer ``index`` if given."""
        q, k, v = self._qkv(h)
        q, k = apply_rotary(q, *rotary), apply_rotary(k, *rotary)
        if cache is not None:
            k, v = cache.append(index, k, v)
        scores = q.float() @ k.float().transpose(-2, -1) / self.config.head_dim**0.5 + mask
        mixed = scores.softmax(dim=-1).to(v.dtype) @ v
        y = self.out(mixed.transpose(1, 2).flatten(2))
        return self.post_norm(y) if self.config.post_attention_norm else y


class PhiMLP(nn.Module):
    """fc2(gelu_tanh(fc1(h)))."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)

    def forward(self, h: Tensor) -> Tensor:
        """h [B, T, C] → [B, T, C]."""
        return self.fc2(F.gelu(self.fc1(h), approximate="tanh"))


class PhiLayer(nn.Module):
    """Attention and MLP in parallel on one LayerNorm."""

    def __init__(self, config: TextConfig, lora: LoraConfig | None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attn = PhiAttention(config, lora)
        self.mlp = PhiMLP(config)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor, cache: KVCache | None, index: int
    ) -> Tensor:
        """x [B, T, C] → [B, T, C]."""
        h = self.norm(x)
        return self.attn(h, rotary, mask, cache, index) + self.mlp(h) + x


class PhiBackbone(nn.Module):
    """Token embedding, L layers, final LayerNorm, head with bias (untied)."""

    def __init__(self, config: TextConfig, lora: LoraConfig | None = None) -> None:
        super().__init__()
        self.config = config
        self.recompute = False  # training: keep each layer's input only and compute the rest again on the way back
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(PhiLayer(config, lora) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.head = nn.Linear(config.width, config.vocab_size)

    def forward(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """Hidden states after the final norm.

        inputs_embeds [B, T, C]; attention_mask int [B, S] over cached and new positions (1 = readable), or None for
        all; cache is read and appended to. Positions count from the start of the row, padding included, as in the
        original. Returns [B, T, C]. Raises InvalidArgumentError on mismatched shapes or an over-long context.
        """
        past = cache.length if cache is not None else 0
        T = inputs_embeds.shape[1]
        self._check(inputs_embeds, attention_mask, past + T)
        positions = torch.arange(past, past + T, device=inputs_embeds.device)
        rotary = rotary_tables(positions, self.config.rotary_dims, self.config.rope_theta)
        mask = causal_mask(attention_mask, T, past + T, inputs_embeds.device)
        x = inputs_embeds
        for index, layer in enumerate(self.layers):
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(layer, x, rotary, mask, cache, index, use_reentrant=False)
            else:
                x = layer(x, rotary, mask, cache, index)
        return self.final_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., C] → f32 [..., V]."""
        return self.head(hidden).float()

    def _check(self, inputs_embeds: Tensor, attention_mask: Tensor | None, total: int) -> None:
        C = self.config.width
        if inputs_embeds.ndim != 3 or inputs_embeds.shape[2] != C or inputs_embeds.shape[1] < 1:
            raise InvalidArgumentError(f"inputs_embeds is {list(inputs_embeds.shape)}, expected [B,T>=1,C={C}]")
        expected = [inputs_embeds.shape[0], total]
        if attention_mask is not None and list(attention_mask.shape) != expected:
            raise InvalidArgumentError(f"attention_mask is {list(attention_mask.shape)}, expected [B,S]={expected}")
        if total > self.config.max_positions:
            raise InvalidArgumentError(f"the context is {total} positions, expected <= {self.config.max_positions}")
