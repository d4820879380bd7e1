"""Token embeddings on a GPU. csrc/kernels/cuda/embedding.h."""

from __future__ import annotations

import torch

from ...errors import InvalidArgumentError
from .caller import Caller, check_apart, dims

KINDS = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.int8: "int8"}


def embedding(
    ids: torch.Tensor, table: torch.Tensor, scales: torch.Tensor | None, out: torch.Tensor | None
) -> torch.Tensor:
    """float32 [T, C] of ids int32 or int64 [T] and a table [V, C], C a multiple of 4.

    The ids lie where the host cannot look: one outside 0..V-1 gives a row of NaN.
    """
    caller, (V, C) = Caller("table", table), dims("table", table, "VC")
    if table.dtype not in KINDS:
        raise InvalidArgumentError(f"table is {table.dtype}, expected one of {', '.join(map(str, KINDS))}")
    (T,) = dims("ids", ids, "T")
    caller.address("ids", ids, (torch.int32, torch.int64), T)
    # What names no row becomes V, which the kernel knows as such: as int32 an int64 could wrap around to one that is
    # there, and a negative one names a row that somebody gives.
    ids = torch.where((ids >= 0) & (ids < V), ids, V).to(torch.int32)
    out = caller.result(out, torch.float32, T, C)
    arguments = {
        "y": caller.address("out", out, torch.float32, T, C),
        "rows": caller.address("table", table, table.dtype, V, C),
        "scales": caller.optional("scales", scales, torch.float32, V),
        "ids": caller.address("ids", ids, torch.int32, T),
    }
    check_apart(out, table=table, scales=scales)
    if T:
        caller.kernels.embedding(tokens=T, vocab=V, width=C, kind=KINDS[table.dtype], **arguments)
    return out
