"""Pages of K and V as the attention kernels of a GPU take them. csrc/kernels/cuda/kv_pages.h."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ...errors import InvalidArgumentError
from ..kv_pages import PAGE_TOKENS, position
from ..tensors import native_module
from .caller import Caller, dims

if TYPE_CHECKING:
    from ..._native import CudaPages

KINDS = {
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int8: "int8",
    torch.float8_e4m3fn: "e4m3",
}
SCALED = (torch.int8, torch.float8_e4m3fn)


def page_dtype(k_pages: Any) -> torch.dtype:
    """Raises ``InvalidArgumentError`` for what is no tensor of a kind that pages have."""
    if not isinstance(k_pages, torch.Tensor) or k_pages.dtype not in KINDS:
        found = k_pages.dtype if isinstance(k_pages, torch.Tensor) else type(k_pages).__name__
        raise InvalidArgumentError(f"k_pages is {found}, expected a tensor of {', '.join(map(str, KINDS))}")
    return k_pages.dtype


def query_dtype(k_pages: Any) -> torch.dtype:
    """What products with such pages are made in. Raises as ``page_dtype``."""
    dtype = page_dtype(k_pages)
    return torch.float16 if dtype in SCALED else dtype


@dataclass(frozen=True)
class Places:
    """Where tokens stand. ``table`` int32 [S, P]. One sequence (S = 1, ``first`` an int) whose tokens follow one
    another from there, or T = S tokens, each of a sequence of its own, at ``first`` int32 [S]."""

    table: torch.Tensor
    first: int | torch.Tensor

    @property
    def is_batch(self) -> bool:
        return not isinstance(self.first, int)


def places_of(caller: Caller, block_table: torch.Tensor, first_position: Any, tokens: int) -> Places:
    """``block_table`` int32 [P] with an int, or [S, P] with a tensor; what the GPU alone can read is trusted."""
    if isinstance(first_position, torch.Tensor):
        S, P = dims("block_table", block_table, "SP")
        if S != tokens:
            raise InvalidArgumentError(f"block_table is [{S}, {P}], expected [T={tokens}, P], one sequence a token")
        caller.address("block_table", block_table, torch.int32, S, P)
        caller.address("first_position", first_position, torch.int32, S)
        return Places(block_table, first_position)
    (P,) = dims("block_table", block_table, "P")
    caller.address("block_table", block_table, torch.int32, P)
    first = position("first_position", first_position)
    if first + tokens > P * PAGE_TOKENS:
        raise InvalidArgumentError(
            f"block_table has {P} pages of {PAGE_TOKENS}, expected enough for {first + tokens} positions"
        )
    return Places(block_table[None], first)


def pages_of(
    caller: Caller,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    k_scales: torch.Tensor | None,
    v_scales: torch.Tensor | None,
    table: torch.Tensor,
    heads: int,
    head_dim: int,
) -> CudaPages:
    """The four and a block table [S, P] for a kernel. Raises ``InvalidArgumentError``."""
    NP = dims("k_pages", k_pages, ("NP", "H", "PS", "D"))[0]
    shape = (NP, heads, PAGE_TOKENS, head_dim)
    if (k_pages.dtype in SCALED) != (k_scales is not None) or (k_scales is None) != (v_scales is None):
        raise InvalidArgumentError(
            f"k_scales is {type(k_scales).__name__} and v_scales {type(v_scales).__name__}, expected tensors with int8 "
            f"and float8_e4m3fn pages and None with others; k_pages is {k_pages.dtype}"
        )
    return native_module().CudaPages(
        kind=KINDS[k_pages.dtype],
        k=caller.address("k_pages", k_pages, k_pages.dtype, *shape),
        v=caller.address("v_pages", v_pages, k_pages.dtype, *shape),
        k_scales=caller.optional("k_scales", k_scales, torch.float16, *shape[:3]),
        v_scales=caller.optional("v_scales", v_scales, torch.float16, *shape[:3]),
        block_table=table.data_ptr(),
        max_pages=table.shape[1],
    )
