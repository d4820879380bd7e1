"""From the qkv product of some tokens to their q and to K and V in the cache: q/k norm, rotary, rounding, in one pass.

csrc/kernels/cpu/qkv_append.h has the arithmetic, ``reference.qkv_append`` the slow twin.
"""

from __future__ import annotations

import torch

from ..env import read_settings
from ..errors import InvalidArgumentError
from .gpu import attention as gpu
from .gpu.pages import query_dtype
from .kv_pages import number, page_buffers, page_kind, position
from .tensors import DEVICES, buffer_of, native_module, on_gpu, thread_count

Norm = tuple[torch.Tensor, torch.Tensor | None]


def qkv_append(
    qkv: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_table: torch.Tensor,
    first_position: int | torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    k_scales: torch.Tensor | None = None,
    v_scales: torch.Tensor | None = None,
    q_norm: Norm | None = None,
    k_norm: Norm | None = None,
    eps: float = 1e-5,
    out: torch.Tensor | None = None,
    threads: int | None = None,
) -> torch.Tensor:
    """q float32 [T, H, D] of qkv float32 [T, H, 3, D]; its k and v go to the pages, which are changed in place.

    q and k are normalised over D if q_norm, k_norm = (weight, bias or None), float32 [D] each, are given; then of
    their first R dims, i and i + R/2 are turned by the angle whose cosine and sine are ``cos[p, i]`` and ``sin[p,
    i]`` (float32 [positions, R/2]; R = 0 turns nothing) at position p = ``first_position`` + t. K and V are rounded
    to the kind of the pages (``ops.paged_attention`` has their shapes); an int8 row that would have to hold NaN,
    infinity or numbers beyond 127 · 65504 gets the scale NaN. ``out`` float32 [T, H, D], apart from the inputs, is
    written and returned. ``threads`` as everywhere. All tensors are contiguous and on the CPU; there is no gradient.

    Raises ``InvalidArgumentError`` for a wrong type, dtype, device, shape or stride, too few positions in cos and sin
    and a block table that is too short or names a page that is not there, ``UnsupportedError`` for an instruction set
    (``TINYGPTV_CPU_ISA``) this CPU lacks or a tensor that requires a gradient.
    """
    weights = (*_norm("q_norm", q_norm), *_norm("k_norm", k_norm))
    if torch.compiler.is_compiling() and out is None and isinstance(first_position, int):
        return torch.ops.tinygptv_fast.qkv_append(
            qkv, k_pages, v_pages, block_table, first_position, cos, sin, k_scales, v_scales, *weights, eps, threads
        )
    run = gpu.qkv_append if on_gpu(qkv) else _run
    return run(
        qkv, k_pages, v_pages, block_table, first_position, cos, sin, k_scales, v_scales, weights, eps, out, threads
    )


def _norm(name: str, norm: Norm | None) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    if norm is None:
        return None, None
    if not isinstance(norm, tuple) or len(norm) != 2 or norm[0] is None:
        raise InvalidArgumentError(f"{name} is {type(norm).__name__}, expected None or (weight, bias or None)")
    return norm


def _run(
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
    native, settings = native_module(), read_settings()
    count = thread_count(threads, settings)
    kind, qkv_buffer = page_kind(k_pages), buffer_of("qkv", qkv, torch.float32)
    if out is None:  # sizes are judged in C++
        out = torch.empty(qkv.shape[0], qkv.shape[1], qkv.shape[3]) if qkv.dim() == 4 else torch.empty(0, 0, 0)
    names = ("q_norm[0]", "q_norm[1]", "k_norm[0]", "k_norm[1]")
    native.qkv_append(
        buffer_of("out", out, torch.float32),
        *page_buffers(k_pages, v_pages, k_scales, v_scales),
        qkv_buffer,
        buffer_of("block_table", block_table, torch.int32),
        position("first_position", first_position),
        buffer_of("cos", cos, torch.float32),
        buffer_of("sin", sin, torch.float32),
        *(None if x is None else buffer_of(name, x, torch.float32) for name, x in zip(names, weights, strict=True)),
        number("eps", eps),
        kind,
        count,
        settings.cpu_isa,
    )
    return out


@torch.library.custom_op(
    "tinygptv_fast::qkv_append",
    mutates_args=("k_pages", "v_pages", "k_scales", "v_scales"),
    device_types=DEVICES,
)
def _qkv_append_op(
    qkv: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_table: torch.Tensor,
    first_position: int,
    cos: torch.Tensor,
    sin: torch.Tensor,
    k_scales: torch.Tensor | None = None,
    v_scales: torch.Tensor | None = None,
    q_weight: torch.Tensor | None = None,
    q_bias: torch.Tensor | None = None,
    k_weight: torch.Tensor | None = None,
    k_bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    threads: int | None = None,
) -> torch.Tensor:
    """``qkv_append``: what torch.compile calls."""
    return qkv_append(
        qkv,
        k_pages,
        v_pages,
        block_table,
        first_position,
        cos,
        sin,
        k_scales=k_scales,
        v_scales=v_scales,
        q_norm=None if q_weight is None else (q_weight, q_bias),
        k_norm=None if k_weight is None else (k_weight, k_bias),
        eps=eps,
        threads=threads,
    )


@_qkv_append_op.register_fake
def _qkv_append_fake(
    qkv: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_table: torch.Tensor,
    first_position: int,
    cos: torch.Tensor,
    sin: torch.Tensor,
    k_scales: torch.Tensor | None = None,
    v_scales: torch.Tensor | None = None,
    q_weight: torch.Tensor | None = None,
    q_bias: torch.Tensor | None = None,
    k_weight: torch.Tensor | None = None,
    k_bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    threads: int | None = None,
) -> torch.Tensor:
    torch._check(qkv.dim() == 4, lambda: f"qkv is {list(qkv.shape)}, expected [T, H, 3, D]")
    dtype = query_dtype(k_pages) if on_gpu(qkv) else torch.float32
    return qkv.new_empty(qkv.shape[0], qkv.shape[1], qkv.shape[3], dtype=dtype)
