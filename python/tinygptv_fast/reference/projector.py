"""The map from Q-Former rows to rows of the language model's embedding space.

The original applies two linear maps with no activation between (llama_proj 768→4096, llama_proj2 4096→2560,
minigpt4.py:149); that is one affine map. Training keeps the two factors, everything else uses the folded map.
"""

from __future__ import annotations

from torch import Tensor, nn


class Projector(nn.Module):
    """y = W x + b with W [C, Q], or W2 (W1 x + b1) + b2 when ``hidden`` (the width between) is given."""

    def __init__(self, in_width: int, out_width: int, hidden: int | None = None) -> None:
        super().__init__()
        self.hidden = hidden
        if hidden is None:
            folded = nn.Linear(in_width, out_width)
            self.weight, self.bias = folded.weight, folded.bias
        else:
            self.proj1 = nn.Linear(in_width, hidden)
            self.proj2 = nn.Linear(hidden, out_width)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., Q] → [..., C]."""
        if self.hidden is None:
            return nn.functional.linear(x, self.weight, self.bias)
        return self.proj2(self.proj1(x))

    def folded(self) -> tuple[Tensor, Tensor]:
        """(W [C, Q], b [C]) in float32: W2 W1 and W2 b1 + b2."""
        if self.hidden is None:
            return self.weight.float(), self.bias.float()
        w1, b1 = self.proj1.weight.float(), self.proj1.bias.float()
        w2, b2 = self.proj2.weight.float(), self.proj2.bias.float()
        return w2 @ w1, w2 @ b1 + b2
