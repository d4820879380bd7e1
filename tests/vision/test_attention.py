"""Attention against float64, whole and in groups of heads."""

from __future__ import annotations

import pytest
import torch

from tinygptv_fast.vision import Arithmetic, attention
from tinygptv_fast.vision.attention import attend

BF16 = 2.0**-8


@pytest.mark.parametrize("rows,tokens,heads,depth", [(1, 1, 1, 4), (17, 17, 3, 12), (65, 65, 4, 88), (32, 257, 12, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("group_bytes", [1, 1 << 16, 1 << 30, None])
def test_attend(
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
    tokens: int,
    heads: int,
    depth: int,
    dtype: torch.dtype,
    group_bytes: int | None,
) -> None:
    """group_bytes None: as on a GPU."""
    monkeypatch.setattr(attention, "_SCORES", group_bytes)
    kind = str(dtype).removeprefix("torch.")
    generator = torch.Generator().manual_seed(rows + tokens)
    q = torch.randn(rows, heads * depth, generator=generator)
    wide = torch.randn(tokens, 2 * heads * depth, generator=generator)
    k, v = wide.chunk(2, dim=1)  # not contiguous, as the tower passes them
    out = attend(q, k, v, heads, Arithmetic(kind, kind, on_gpu=group_bytes is None))
    assert out.shape == (rows, heads * depth) and out.dtype == dtype
    a, b, c = (x.double().view(-1, heads, depth).transpose(0, 1) for x in (q, k.contiguous(), v.contiguous()))
    exact = ((a @ b.mT / depth**0.5).softmax(-1) @ c).transpose(0, 1).reshape(rows, -1)
    error = float((out - exact).norm() / exact.norm())
    # Roundings of q, k and the score act on weights of order one, those of the weights and v directly, that of the
    # result once more: six in all, each below its unit roundoff.
    assert error <= 6 * (BF16 if dtype == torch.bfloat16 else depth * 2.0**-24)
