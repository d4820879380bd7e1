"""BLIP-2 Q-Former, query branch only: learned queries read the picture through cross-attention.

Source: BLIP-2 (arXiv 2301.12597) as TinyGPT-V runs it (minigpt4/models/Qformer.py): post-norm BERT layers, no
position embedding on the queries, cross-attention on every ``cross_attention_every``-th layer, all-ones masks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import QFormerConfig


class QFormerAttention(nn.Module):
    """BERT attention with its output projection, residual and LayerNorm (post-norm).

    Scores are divided by sqrt(head dim) after the product (Qformer.py:244).
    """

    def __init__(self, config: QFormerConfig, source_width: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(source_width, config.width)
        self.value = nn.Linear(source_width, config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """x [B, NQ, Q], source [B, M, source_width] → [B, NQ, Q]."""
        q, k, v = self._split(self.query(x)), self._split(self.key(source)), self._split(self.value(source))
        weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1)
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        return self.norm(self.out(mixed) + x)


class QFormerMLP(nn.Module):
    """LN(fc2(GELU(fc1(x))) + x) with the exact GELU."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, NQ, Q] → [B, NQ, Q]."""
        return self.norm(self.fc2(F.gelu(self.fc1(x))) + x)


class QFormerLayer(nn.Module):
    """Self-attention, cross-attention on some layers, MLP."""

    def __init__(self, config: QFormerConfig, vision_width: int, index: int) -> None:
        super().__init__()
        self.self_attn = QFormerAttention(config, config.width)
        has_cross = index % config.cross_attention_every == 0
        self.cross_attn = QFormerAttention(config, vision_width) if has_cross else None
        self.mlp = QFormerMLP(config)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """x [B, NQ, Q], image [B, I, E] → [B, NQ, Q]."""
        x = self.self_attn(x, x)
        if self.cross_attn is not None:
            x = self.cross_attn(x, image)
        return self.mlp(x)


class QFormer(nn.Module):
    """NQ learned queries → NQ rows that describe the picture."""

    def __init__(self, config: QFormerConfig, vision_width: int) -> None:
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(config.queries, config.width))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.layers = nn.ModuleList(QFormerLayer(config, vision_width, i) for i in range(config.layers))

    def forward(self, image: Tensor) -> Tensor:
        """image [B, I, E] (after ln_vision) → [B, NQ, Q]."""
        x = self.norm(self.query_tokens).expand(image.shape[0], -1, -1)
        for layer in self.layers:
            x = layer(x, image)
        return x
