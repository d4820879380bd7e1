"""Attention over pages on a GPU, and what puts rows there. csrc/kernels/cuda has paged_attention.h (one token of each
sequence), prefill_attention.h (many of one) and qkv_append.h.

What the CPU's ops do for one sequence is also done for a batch: with ``block_table`` int32 [S, P] and
``first_position`` int32 [S], both on the GPU, token s is of sequence s. Such a call waits for nothing and is
fit for a graph. Page numbers and positions on the GPU are trusted.
"""

from __future__ import annotations

from typing import Any

import torch

from ..kv_pages import number
from .caller import Caller, check_apart, dims, refuse_threads
from .pages import Places, page_dtype, pages_of, places_of, query_dtype

_SINGLE_TOKEN = (torch.float32,)  # pages that the kernel for many tokens does not take


def paged_attention(
    q: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_table: torch.Tensor,
    first_position: int | torch.Tensor,
    k_scales: torch.Tensor | None,
    v_scales: torch.Tensor | None,
    scale: float,
    out: torch.Tensor | None,
    threads: int | None,
) -> torch.Tensor:
    """softmax(scale · q Kᵀ) V [T, H, D] float32, or float16 as ``out``; D is 64 or 80. q has the dtype of the pages,
    float16 over int8 and float8_e4m3fn. Raises ``InvalidArgumentError``."""
    refuse_threads(threads)
    caller, (T, H, D) = Caller("q", q), dims("q", q, "THD")
    places = places_of(caller, block_table, first_position, T)
    if not places.is_batch and (T == 1 or page_dtype(k_pages) in _SINGLE_TOKEN):
        places = _alone(caller, places, T)
    out = caller.result(out, torch.float32, T, H, D)
    pages = pages_of(caller, k_pages, v_pages, k_scales, v_scales, places.table, H, D)
    sizes: dict[str, Any] = {
        "sequences": places.table.shape[0],
        "heads": H,
        "head_dim": D,
        "scale": scale,
        "pages": pages,
    }
    sizes |= {
        "out": caller.address("out", out, (torch.float32, torch.float16), T, H, D),
        "out_is_half": out.dtype == torch.float16,
        "q": caller.address("q", q, query_dtype(k_pages), T, H, D),
    }
    check_apart(out, q=q, k_pages=k_pages, v_pages=v_pages)
    if T == 0:
        return out
    if isinstance(places.first, torch.Tensor):
        lengths = places.first + 1
        count = caller.kernels.decode_scratch(T, H, D, places.table.shape[1])
        scratch = torch.empty(count, dtype=torch.float32, device=caller.device)
        caller.kernels.decode_attention(lengths=lengths.data_ptr(), scratch=scratch.data_ptr(), **sizes)
        return out
    first, tokens, contexts = (_one(caller, value) for value in (0, T, places.first + T))
    caller.kernels.prefill_attention(
        max_tokens=T,
        first_tokens=first.data_ptr(),
        tokens=tokens.data_ptr(),
        contexts=contexts.data_ptr(),
        **sizes,
    )
    return out


def _alone(caller: Caller, places: Places, tokens: int) -> Places:
    """Every token of the one sequence as a sequence of its own, which ends with it."""
    first = places.first
    assert isinstance(first, int)
    return Places(
        places.table.expand(tokens, -1).contiguous(),
        torch.arange(first, first + tokens, dtype=torch.int32, device=caller.device),
    )


def _one(caller: Caller, value: int) -> torch.Tensor:
    return torch.full((1,), value, dtype=torch.int32, device=caller.device)


def qkv_append(
    qkv: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_table: torch.Tensor,
    first_position: int | torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    k_scales: torch.Tensor | None,
    v_scales: torch.Tensor | None,
    weights: tuple[torch.Tensor | None, ...],
    eps: float,
    out: torch.Tensor | None,
    threads: int | None,
) -> torch.Tensor:
    """q [T, H, D] of qkv float32 [T, H, 3, D], in the dtype that ``paged_attention`` takes or, as ``out``, in float32,
    float16 or bfloat16; D a multiple of 8. A token whose place is not there (beyond the table, cos and sin, or on a
    page that is not there) writes nothing, not even its q. Raises ``InvalidArgumentError``."""
    refuse_threads(threads)
    caller, (T, H, _, D) = Caller("qkv", qkv), dims("qkv", qkv, ("T", "H", "3", "D"))
    places = places_of(caller, block_table, first_position, T)
    rows, half = dims("cos", cos, ("positions", "R/2"))
    out = caller.result(out, query_dtype(k_pages), T, H, D)
    pages = pages_of(caller, k_pages, v_pages, k_scales, v_scales, places.table, H, D)
    names = ("q_weight", "q_bias", "k_weight", "k_bias")
    arguments = {name: caller.optional(name, x, torch.float32, D) for name, x in zip(names, weights, strict=True)}
    arguments |= {
        "q": caller.address("out", out, (torch.float32, torch.float16, torch.bfloat16), T, H, D),
        "qkv": caller.address("qkv", qkv, torch.float32, T, H, 3, D),
        "cos": caller.address("cos", cos, torch.float32, rows, half),
        "sin": caller.address("sin", sin, torch.float32, rows, half),
    }
    check_apart(out, qkv=qkv, k_pages=k_pages, v_pages=v_pages, cos=cos, sin=sin)
    if T == 0:
        return out
    positions, sequence_of = places.first, None
    if isinstance(positions, int):
        sequence_of = torch.zeros(T, dtype=torch.int32, device=caller.device)
        positions = torch.arange(positions, positions + T, dtype=torch.int32, device=caller.device)
    kind = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}[out.dtype]
    caller.kernels.qkv_append(
        tokens=T,
        heads=H,
        head_dim=D,
        rotary_dims=2 * half,
        rotary_positions=rows,
        sequences=places.table.shape[0],
        page_count=k_pages.shape[0],
        eps=number("eps", eps),
        q_kind=kind,
        pages=pages,
        positions=positions.data_ptr(),
        sequence_of=0 if sequence_of is None else sequence_of.data_ptr(),
        **arguments,
    )
    return out
