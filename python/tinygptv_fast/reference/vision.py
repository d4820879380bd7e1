"""EVA-CLIP vision transformer, any size. Knows nothing of the Q-Former or of files.

Source of the arithmetic: EVA-CLIP (arXiv 2303.15389) as TinyGPT-V runs it (minigpt4/models/eva_vit.py): pre-norm
blocks, exact GELU, no final norm, no head, class token kept.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import VisionConfig
from ..errors import InvalidArgumentError


def interpolate_position_embedding(pos_embed: Tensor, tokens: int) -> Tensor:
    """Resize a [I', E] position embedding to [tokens, E]; both are one class row followed by a square grid.

    The grid is resized bicubically in float32 with ``align_corners=False`` and no antialiasing, the class row is kept
    (eva_vit.py, interpolate_pos_embed). Raises InvalidArgumentError if either grid is not square.
    """
    old, new = (round((n - 1) ** 0.5) for n in (pos_embed.shape[0], tokens))
    if old * old + 1 != pos_embed.shape[0] or new * new + 1 != tokens:
        raise InvalidArgumentError(
            f"pos_embed has {pos_embed.shape[0]} rows and {tokens} are wanted, expected 1 + a square number of both"
        )
    pos_embed = pos_embed.float()
    if old == new:
        return pos_embed
    grid = pos_embed[1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([pos_embed[:1], grid.permute(0, 2, 3, 1).reshape(new * new, -1)])


def softmax_as_it_is(scores: Tensor) -> Tensor:
    """Softmax over the last dim in the scores' own dtype. Autocast would make it float32: four bytes a score, for
    digits that the next product, in bfloat16, drops again."""
    with torch.autocast(scores.device.type, enabled=False):
        return scores.softmax(dim=-1)


class VisionAttention(nn.Module):
    """Multi-head self-attention with a fused qkv; q is scaled before the product with k (eva_vit.py:118)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, I, E] → [B, I, E]."""
        B, I, E = x.shape  # noqa: E741  (I is the project's letter for image tokens)
        q, k, v = self.qkv(x).view(B, I, 3, self.heads, E // self.heads).permute(2, 0, 3, 1, 4)
        q = q * (E // self.heads) ** -0.5
        return self.out((softmax_as_it_is(q @ k.transpose(-2, -1)) @ v).transpose(1, 2).reshape(B, I, E))


class VisionMLP(nn.Module):
    """fc2(GELU(fc1(x))) with the exact (erf) GELU."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, I, E] → [B, I, E]."""
        return self.fc2(F.gelu(self.fc1(x)))


class VisionLayer(nn.Module):
    """x + attn(LN(x)), then x + mlp(LN(x))."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attn = VisionAttention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = VisionMLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, I, E] → [B, I, E]."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTower(nn.Module):
    """Pixels → one row per patch plus a class row."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(config.width))
        self.pos_embed = nn.Parameter(torch.zeros(config.tokens, config.width))
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.layers))

    def embed(self, pixels: Tensor) -> Tensor:
        """pixels f32 [B, 3, S, S] (normalised) → [B, I, E] with class row and positions added."""
        size = self.config.image_size
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, size, size):
            raise InvalidArgumentError(f"pixels is {list(pixels.shape)}, expected [B,3,{size},{size}]")
        patches = self.patch_embed(pixels).flatten(2).transpose(1, 2)
        cls_row = self.cls_token.expand(patches.shape[0], 1, -1)
        return torch.cat([cls_row, patches], dim=1) + self.pos_embed

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels f32 [B, 3, S, S] → [B, I, E], no final norm. Raises InvalidArgumentError for another size."""
        x = self.embed(pixels)
        for layer in self.layers:
            x = layer(x)
        return x
