"""Pages of K and V as the attention ops take them. Shapes are matched in C++."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import InvalidArgumentError
from .tensors import buffer_of

PAGE_TOKENS = 16  # PS: positions of a page
KINDS = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.int8: "int8"}


def page_kind(k_pages: Any) -> str:
    """The core's name of the kind that ``k_pages`` has. Raises ``InvalidArgumentError``."""
    if not isinstance(k_pages, torch.Tensor) or k_pages.dtype not in KINDS:
        found = k_pages.dtype if isinstance(k_pages, torch.Tensor) else type(k_pages).__name__
        raise InvalidArgumentError(f"k_pages is {found}, expected a tensor of float32, float16, bfloat16 or int8")
    return KINDS[k_pages.dtype]


def page_buffers(
    k_pages: torch.Tensor, v_pages: torch.Tensor, k_scales: torch.Tensor | None, v_scales: torch.Tensor | None
) -> tuple[Any, Any, Any, Any]:
    """Buffers of the four; bfloat16 as the bits of float16, because buffers know no bfloat16."""
    page_kind(k_pages)
    pages = [buffer_of(name, x, k_pages.dtype) for name, x in (("k_pages", k_pages), ("v_pages", v_pages))]
    scales = [
        None if x is None else buffer_of(name, x, torch.float16)
        for name, x in (("k_scales", k_scales), ("v_scales", v_scales))
    ]
    return pages[0], pages[1], scales[0], scales[1]


def position(name: str, value: Any) -> int:
    """``value`` if it is an integer that the core can judge."""
    if type(value) is not int or not 0 <= value < 2**31:
        raise InvalidArgumentError(f"{name} is {value!r}, expected an integer 0..2^31-1")
    return value


def number(name: str, value: Any) -> float:
    """``value`` as a finite float."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        raise InvalidArgumentError(f"{name} is {value!r}, expected a finite number")
    return float(value)
