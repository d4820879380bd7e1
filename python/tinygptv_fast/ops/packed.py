"""What the products with packed weights share: memory for a packed matrix, and the checks around a call.

Knows torch tensors and the native core; no kind of weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..env import read_settings
from ..errors import InvalidArgumentError
from .tensors import buffer_of, native_module, thread_count

ACTIVATIONS = ("gelu_tanh",)
_HUGE_BYTES = 2 << 20  # from here on packed weights go to huge pages


def allocate(size: int) -> torch.Tensor:
    """uint8 [size] at a multiple of 64 bytes."""
    if size < _HUGE_BYTES:
        return torch.empty(size, dtype=torch.uint8)  # torch's CPU allocator aligns to 64 bytes
    return torch.frombuffer(native_module().HugeBuffer(size), dtype=torch.uint8)


def check_activation(activation: str | None) -> None:
    """Raises ``InvalidArgumentError`` for what is no activation."""
    if activation is not None and activation not in ACTIVATIONS:
        raise InvalidArgumentError(f"activation is {activation!r}, expected None or one of {ACTIVATIONS}")


def multiply(
    call: Callable[..., None],
    x: torch.Tensor,
    data: torch.Tensor,
    rows: int,
    sizes: tuple[Any, ...],
    bias: torch.Tensor | None,
    activation: str | None,
    out: torch.Tensor | None,
    threads: int | None,
) -> torch.Tensor:
    """``call(out, x, data, bias, rows, *sizes, activation, threads, isa)`` on buffers; the result is ``out``."""
    settings = read_settings()
    count = thread_count(threads, settings)
    x_buffer = buffer_of("x", x, torch.float32)
    if out is None:
        out = torch.empty(x.shape[0] if x.dim() else 0, max(rows, 0))  # sizes are judged in C++
    call(
        buffer_of("out", out, torch.float32),
        x_buffer,
        buffer_of("w.data", data, torch.uint8),
        None if bias is None else buffer_of("bias", bias, torch.float32),
        rows,
        *sizes,
        activation or "",
        count,
        settings.cpu_isa,
    )
    return out


def fake_product(x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The shape of a product, for torch.compile."""
    if x.dim() != 2 or x.dtype != torch.float32:
        raise InvalidArgumentError(f"x is {list(x.shape)} {x.dtype}, expected [M, K] torch.float32")
    torch._check(x.shape[1] == columns, lambda: f"x is {list(x.shape)}, expected [M, K={columns}]")
    return x.new_empty(x.shape[0], rows)
