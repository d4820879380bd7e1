"""Causal attention of one sequence's tokens over its pages of K and V: decode and chunked prefill alike.

A row of the result depends on its own query, on what it may see and on its position alone, bit for bit, whatever the
chunk, the threads or the instruction set. csrc/kernels/cpu/paged_attention.h has the arithmetic,
``reference.paged_attention`` the slow twin.
"""

from __future__ import annotations

import torch

from ..env import read_settings
from .gpu import attention as gpu
from .kv_pages import number, page_buffers, page_kind, position
from .tensors import DEVICES, buffer_of, native_module, on_gpu, thread_count


def paged_attention(
    q: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_table: torch.Tensor,
    first_position: int | torch.Tensor,
    *,
    k_scales: torch.Tensor | None = None,
    v_scales: torch.Tensor | None = None,
    scale: float | None = None,
    out: torch.Tensor | None = None,
    threads: int | None = None,
) -> torch.Tensor:
    """softmax(scale · q Kᵀ) V, float32 [T, H, D]; token t stands at ``first_position`` + t and sees positions up to it.

    q float32 [T, H, D] (T >= 0). k_pages, v_pages [NP, H, 16, D] in float32, float16, bfloat16 or int8, D a multiple of
    4 in 4..256; int8 with k_scales, v_scales float16 [NP, H, 16], value = level · scale. Position i is slot i % 16 of
    page ``block_table[i // 16]`` (int32, one entry per page in use). scale: None means D^-0.5. ``out`` float32
    [T, H, D], apart from the inputs, is written and returned. ``threads``: None means ``TINYGPTV_THREADS``, else the
    physical cores. All tensors are contiguous and on the CPU; there is no gradient. NaN or infinity in a query, or in
    what it sees, makes its rows NaN.

    Raises ``InvalidArgumentError`` for a wrong type, dtype, device, shape or stride and for a block table that is too
    short or names a page that is not there, ``UnsupportedError`` for an instruction set (``TINYGPTV_CPU_ISA``) this CPU
    lacks or a tensor that requires a gradient.
    """
    if torch.compiler.is_compiling() and out is None and isinstance(first_position, int):
        return torch.ops.tinygptv_fast.paged_attention(
            q, k_pages, v_pages, block_table, first_position, k_scales, v_scales, scale, threads
        )
    if on_gpu(q):
        chosen = number("scale", max(q.shape[-1] if q.dim() else 1, 1) ** -0.5 if scale is None else scale)
        return gpu.paged_attention(
            q, k_pages, v_pages, block_table, first_position, k_scales, v_scales, chosen, out, threads
        )
    return _run(q, k_pages, v_pages, block_table, first_position, k_scales, v_scales, scale, out, threads)


def _run(
    q: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_table: torch.Tensor,
    first_position: int | torch.Tensor,
    k_scales: torch.Tensor | None,
    v_scales: torch.Tensor | None,
    scale: float | None,
    out: torch.Tensor | None,
    threads: int | None,
) -> torch.Tensor:
    native, settings = native_module(), read_settings()
    count = thread_count(threads, settings)
    kind, q_buffer = page_kind(k_pages), buffer_of("q", q, torch.float32)
    pages = page_buffers(k_pages, v_pages, k_scales, v_scales)
    if scale is None:
        scale = max(q.shape[-1] if q.dim() else 1, 1) ** -0.5
    if out is None:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
    native.paged_attention(
        buffer_of("out", out, torch.float32),
        q_buffer,
        *pages,
        buffer_of("block_table", block_table, torch.int32),
        position("first_position", first_position),
        number("scale", scale),
        kind,
        count,
        settings.cpu_isa,
    )
    return out


@torch.library.custom_op("tinygptv_fast::paged_attention", mutates_args=(), device_types=DEVICES)
def _paged_attention_op(
    q: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_table: torch.Tensor,
    first_position: int,
    k_scales: torch.Tensor | None = None,
    v_scales: torch.Tensor | None = None,
    scale: float | None = None,
    threads: int | None = None,
) -> torch.Tensor:
    """``paged_attention``: what torch.compile calls."""
    return paged_attention(
        q,
        k_pages,
        v_pages,
        block_table,
        first_position,
        k_scales=k_scales,
        v_scales=v_scales,
        scale=scale,
        threads=threads,
    )


@_paged_attention_op.register_fake
def _paged_attention_fake(
    q: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_table: torch.Tensor,
    first_position: int,
    k_scales: torch.Tensor | None = None,
    v_scales: torch.Tensor | None = None,
    scale: float | None = None,
    threads: int | None = None,
) -> torch.Tensor:
    torch._check(q.dim() == 3, lambda: f"q is {list(q.shape)}, expected [T, H, D]")
    return q.new_empty(q.shape, dtype=torch.float32)
