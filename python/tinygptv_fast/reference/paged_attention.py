"""Slow twins of ``ops.qkv_append`` and ``ops.paged_attention``: the same rows, the same rounding of K and V, and over
int8 pages of queries and weights, in plain torch; attention itself in float64.

Knows pages and a block table as tensors, nothing of who owns them.
"""

from __future__ import annotations

import torch
from torch import Tensor

PAGE_TOKENS = 16  # PS
CUT_TOKENS = 256  # positions whose weights are rounded together


def round_rows(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """float32 rows [..., D] as a cache of ``dtype`` holds them, and for int8 their scales float16 [...].

    int8: scale = half(max|x| / 127), level = x·(1 / scale) to nearest, ties to even, within ±127, all in float32; a row
    that holds NaN or infinity, or whose scale is no finite half, gets the scale NaN and levels 0.
    """
    if dtype != torch.int8:
        return rows.to(dtype), None
    largest = rows.abs().amax(-1, keepdim=True)
    scale = (largest / torch.full_like(largest, 127.0)).half()
    good = torch.isfinite(scale) & torch.isfinite(rows).all(-1, keepdim=True)
    step = torch.where(good & (scale > 0), scale.float(), torch.inf)
    levels = (rows.nan_to_num() * (torch.ones_like(step) / step)).round().clamp(-127, 127)
    return levels.to(torch.int8), torch.where(good, scale, torch.nan).squeeze(-1)


def round_to_int16(rows: Tensor) -> Tensor:
    """rows [..., N] as float64, rounded as attention over int8 pages rounds its queries and weights.

    Level = x·2^(14 - e) to nearest, ties to even, at most 32767, where 2^e <= max|x| < 2^(e+1); all in a row are NaN if
    their magnitudes do not add up to less than 2^100, and 0 if max|x| < 2^-100.
    """
    size = rows.abs().double()
    most = size.amax(-1, keepdim=True)
    exponent = torch.frexp(most.nan_to_num())[1].double() - 1
    step = torch.exp2(exponent - 14)
    levels = (rows.double() / step).round().clamp(max=32767.0)
    kept = torch.where(most.nan_to_num() < 2.0**-100, torch.zeros_like(levels), levels * step)
    return torch.where(size.sum(-1, keepdim=True) < 2.0**100, kept, torch.nan)


def read_rows(pages: Tensor, scales: Tensor | None, block_table: Tensor, positions: int) -> Tensor:
    """float32 [positions, H, D]: what the pages [NP, H, PS, D] (int8: times scales [NP, H, PS]) hold for a sequence."""
    used = block_table[: -(-positions // PAGE_TOKENS)].long()
    rows = pages[used].float()
    if scales is not None:
        rows = rows * scales[used].float()[..., None]
    return rows.transpose(1, 2).flatten(0, 1)[:positions]


def _write_rows(rows: Tensor, pages: Tensor, scales: Tensor | None, block_table: Tensor, first_position: int) -> None:
    """rows float32 [T, H, D] to positions first_position + t."""
    levels, steps = round_rows(rows, pages.dtype)
    for t in range(rows.shape[0]):
        page, slot = divmod(first_position + t, PAGE_TOKENS)
        pages[block_table[page], :, slot] = levels[t]
        if scales is not None and steps is not None:
            scales[block_table[page], :, slot] = steps[t]


def _norm_and_turn(
    x: Tensor, norm: tuple[Tensor, Tensor | None] | None, eps: float, cos: Tensor, sin: Tensor
) -> Tensor:
    """x [T, H, D]; cos, sin [T, R/2]."""
    if norm is not None:
        x = torch.nn.functional.layer_norm(x, x.shape[-1:], norm[0].to(x), None, eps)
        if norm[1] is not None:
            x = x + norm[1].to(x)
    half = cos.shape[-1]
    low, high, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    c, s = cos[:, None].to(x), sin[:, None].to(x)
    return torch.cat([low * c - high * s, high * c + low * s, rest], dim=-1)


def qkv_append(
    qkv: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    block_table: Tensor,
    first_position: int,
    cos: Tensor,
    sin: Tensor,
    *,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
    q_norm: tuple[Tensor, Tensor | None] | None = None,
    k_norm: tuple[Tensor, Tensor | None] | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """q [T, H, D] of qkv [T, H, 3, D], normalised and rotated, in qkv's dtype; k and v of it are rounded into the
    pages. Arguments as for ``ops.qkv_append``; with qkv in float64 all but the rounding is float64."""
    q, k, v = qkv.unbind(dim=2)
    places = slice(first_position, first_position + qkv.shape[0])
    cos, sin = cos[places], sin[places]
    _write_rows(_norm_and_turn(k, k_norm, eps, cos, sin).float(), k_pages, k_scales, block_table, first_position)
    _write_rows(v.float(), v_pages, v_scales, block_table, first_position)
    return _norm_and_turn(q, q_norm, eps, cos, sin)


def paged_attention(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    block_table: Tensor,
    first_position: int,
    *,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Attention of q float32 [T, H, D] as ``ops.paged_attention`` gives it, float32 [T, H, D] (see ``attend``)."""
    tokens, _, head_dim = q.shape
    positions = first_position + tokens
    k = read_rows(k_pages, k_scales, block_table, positions).double()
    v = read_rows(v_pages, None, block_table, positions).double()
    steps = None
    if v_scales is not None:
        steps = read_rows(v_scales[..., None], None, block_table, positions)[..., 0].double()
    factor = head_dim**-0.5 if scale is None else scale
    out = torch.empty_like(q)
    for t in range(tokens):  # one by one: a position after a token is not touched, whatever it holds
        seen = first_position + t + 1
        out[t] = attend(q[t], k[:seen], v[:seen], None if steps is None else steps[:seen], factor)
    return out


def attend(q: Tensor, k: Tensor, v: Tensor, v_scales: Tensor | None, scale: float) -> Tensor:
    """One token over all it sees, float32 [H, D], computed in float64.

    q float32 [H, D]; k and v float64 [N, H, D]; v_scales float64 [N, H] of an int8 cache, whose levels v then holds:
    queries and weights are rounded to int16 there, weights times v_scales and in cuts of 256 positions.
    """
    if v_scales is not None:
        q = round_to_int16(q)
    scores = torch.einsum("hd,ihd->hi", q.double(), k) * scale
    if v_scales is None:
        return torch.einsum("hi,ihd->hd", scores.softmax(-1), v).float()
    out, divisor = torch.zeros(q.shape, dtype=torch.float64), torch.zeros(q.shape[0], 1, dtype=torch.float64)
    top = scores.amax(-1, keepdim=True)
    for begin in range(0, scores.shape[-1], CUT_TOKENS):
        cut = slice(begin, begin + CUT_TOKENS)
        most = scores[:, cut].amax(-1, keepdim=True)
        p = (scores[:, cut] - most).exp()
        weights = round_to_int16(p * v_scales[cut].T)
        share = (most - top).exp()
        out += share * torch.einsum("hi,ihd->hd", weights, v[cut])
        divisor += share * p.sum(-1, keepdim=True)
    return (out / divisor).float()
