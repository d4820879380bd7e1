"""Low-rank adapters (LoRA, arXiv 2106.09685): y = W x + b + (alpha / rank) B (A x)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import LoraConfig


class LoraLinear(nn.Linear):
    """A Linear [N, K] with an optional adapter: ``lora_a`` [r, K] normal, ``lora_b`` [N, r] zero at the start."""

    def __init__(self, in_features: int, out_features: int, lora: LoraConfig | None = None) -> None:
        super().__init__(in_features, out_features)
        self.lora = lora
        if lora is not None:
            self.lora_a = nn.Parameter(torch.empty(lora.rank, in_features))
            self.lora_b = nn.Parameter(torch.zeros(out_features, lora.rank))
            nn.init.kaiming_uniform_(self.lora_a, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if self.lora is None:
            return y
        dropped = F.dropout(x, self.lora.dropout, self.training)
        return y + F.linear(F.linear(dropped, self.lora_a), self.lora_b) * self.lora.scale

    def folded_weight(self) -> Tensor:
        """W + scale·B A in float32, [N, K]: the weight of the equivalent plain Linear."""
        if self.lora is None:
            return self.weight.float()
        return self.weight.float() + self.lora.scale * (self.lora_b.float() @ self.lora_a.float())
