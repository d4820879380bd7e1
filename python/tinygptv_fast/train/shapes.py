"""Few shapes instead of many. The library behind bfloat16 products on a CPU compiles a kernel for every shape it meets
and keeps a thousand of them; rows of free length are new shapes at every step, and compiling took up to half of it.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

TOKENS, LEARNT = 16, 128  # multiples for a row's tokens, and for the tokens of a batch that have logits


def up(count: int, stride: int) -> int:
    """The next multiple of ``stride``."""
    return -(-count // stride) * stride


def padded(rows: Tensor, stride: int = LEARNT) -> Tensor:
    """[n, C] → [m, C] with zeros behind, m a multiple of ``stride``."""
    return F.pad(rows, (0, 0, 0, up(len(rows), stride) - len(rows)))
