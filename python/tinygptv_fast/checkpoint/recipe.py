"""How each tensor of the model is made from tensors of the source files, a block of rows at a time.

A ``Recipe`` reads nothing until ``rows`` is called, so a conversion holds one block of one tensor. All arithmetic is
float32. Every source value that is read is checked for NaN and Inf.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .table import TableEntry


@dataclass(frozen=True)
class Recipe:
    """Tensor ``name`` of ``shape``; ``rows(a, b)`` is float32 [b - a, *shape[1:]].

    ``exact_in`` is the code (``dtypes``) of the type that holds the values without loss: the source's, or float32 where
    they are computed.
    """

    name: str
    shape: tuple[int, ...]
    exact_in: str
    rows: Callable[[int, int], torch.Tensor]

    def all(self) -> torch.Tensor:
        return self.rows(0, self.shape[0])


def read_rows(entry: TableEntry, start: int, stop: int) -> torch.Tensor:
    """Rows of a source tensor in float32, checked to be finite."""
    return entry.check_finite(entry.read()[start:stop]).to(torch.float32)


def direct(name: str, entry: TableEntry, shape: tuple[int, ...] | None = None) -> Recipe:
    """The source tensor as it is, viewed as ``shape`` (leading dimensions of 1 removed, say)."""
    shape = entry.info.shape if shape is None else shape

    def rows(start: int, stop: int) -> torch.Tensor:
        values = entry.read().reshape(shape)[start:stop]
        return entry.check_finite(values).to(torch.float32)

    return Recipe(name, shape, entry.info.code, rows)


def zeros(name: str, shape: tuple[int, ...]) -> Recipe:
    return Recipe(name, shape, "F32", lambda start, stop: torch.zeros((stop - start, *shape[1:])))


def ones(name: str, shape: tuple[int, ...]) -> Recipe:
    return Recipe(name, shape, "F32", lambda start, stop: torch.ones((stop - start, *shape[1:])))


def interleave(name: str, entries: tuple[TableEntry, TableEntry, TableEntry], heads: int) -> Recipe:
    """Split q, k, v ([H*D, ...] each) as one tensor with rows [H, 3, D] (the fused layout of the original's Phi)."""
    return _gather(name, entries, heads, lambda part, head, size: (part, head * size))


def interleave_fused(name: str, entry: TableEntry, heads: int) -> Recipe:
    """A fused tensor with rows [3, H, D] (phi-msft's Wqkv) reordered to [H, 3, D]."""
    width = entry.info.shape[0] // 3
    return _gather(name, (entry,), heads, lambda part, head, size: (0, part * width + head * size))


def _gather(
    name: str, entries: tuple[TableEntry, ...], heads: int, place: Callable[[int, int, int], tuple[int, int]]
) -> Recipe:
    total = sum(entry.info.shape[0] for entry in entries)
    size = total // (3 * heads)
    codes = {entry.info.code for entry in entries}
    exact = codes.pop() if len(codes) == 1 else "F32"

    def rows(start: int, stop: int) -> torch.Tensor:
        pieces = []
        for block in range(start // size, -(-stop // size)):
            head, part = divmod(block, 3)
            which, first = place(part, head, size)
            low, high = max(start - block * size, 0), min(stop - block * size, size)
            pieces.append(read_rows(entries[which], first + low, first + high))
        return torch.cat(pieces)

    return Recipe(name, (total, *entries[0].info.shape[1:]), exact, rows)


def add_lora(base: Recipe, lora_a: TableEntry, lora_b: TableEntry, scale: float) -> Recipe:
    """W + scale·B·A (LoRA, arXiv 2106.09685): A [r, K], B [N, r], in float32."""

    def rows(start: int, stop: int) -> torch.Tensor:
        factor = read_rows(lora_a, 0, lora_a.info.shape[0])
        update = read_rows(lora_b, start, stop) @ factor
        return base.rows(start, stop) + scale * update

    return Recipe(base.name, base.shape, "F32", rows)


def fold_projection_weight(name: str, first: TableEntry, second: TableEntry) -> Recipe:
    """W2·W1: two linear maps with nothing between them are one (minigpt4.py:149-150). In float32."""

    def rows(start: int, stop: int) -> torch.Tensor:
        return read_rows(second, start, stop) @ read_rows(first, 0, first.info.shape[0])

    return Recipe(name, (second.info.shape[0], first.info.shape[1]), "F32", rows)


def fold_projection_bias(name: str, first_bias: TableEntry, second: TableEntry, second_bias: TableEntry) -> Recipe:
    """W2·b1 + b2, in float32."""

    def rows(start: int, stop: int) -> torch.Tensor:
        moved = read_rows(second, start, stop) @ read_rows(first_bias, 0, first_bias.info.shape[0])
        return moved + read_rows(second_bias, start, stop)

    return Recipe(name, second_bias.info.shape, "F32", rows)


def qkv_bias(name: str, query: TableEntry, value: TableEntry) -> Recipe:
    """cat(q_bias, 0, v_bias): EVA's keys have no bias (eva_vit.py:118-131)."""
    width = query.info.shape[0]

    def rows(start: int, stop: int) -> torch.Tensor:
        whole = torch.cat([read_rows(query, 0, width), torch.zeros(width), read_rows(value, 0, width)])
        return whole[start:stop]

    return Recipe(name, (3 * width,), "F32", rows)


def resize_positions(name: str, entry: TableEntry, grid: int) -> Recipe:
    """Positions [1, 1 + g², E] for a ``grid`` × ``grid`` patch grid, [1 + grid², E].

    The patch part is resized bicubically in float32 (align_corners=False, no antialiasing), the class token's row is
    kept (eva_vit.py:373-394). The same grid is passed through untouched.
    """
    tokens, width = entry.info.shape[1:]
    source = round((tokens - 1) ** 0.5)

    def rows(start: int, stop: int) -> torch.Tensor:
        values = entry.check_finite(entry.read()).to(torch.float32).reshape(tokens, width)
        if source != grid:
            patches = values[1:].reshape(1, source, source, width).permute(0, 3, 1, 2)
            patches = F.interpolate(patches, size=(grid, grid), mode="bicubic", align_corners=False)
            values = torch.cat([values[:1], patches.permute(0, 2, 3, 1).reshape(grid * grid, width)])
        return values[start:stop]

    return Recipe(name, (1 + grid * grid, width), "F32", rows)
