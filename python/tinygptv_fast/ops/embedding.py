"""Token embeddings: rows of a float32, bfloat16 or int8 table as float32.

csrc/kernels/cpu/embedding.h has the arithmetic, ``reference.embedding`` the slow twin.
"""

from __future__ import annotations

import torch

from ..errors import InvalidArgumentError
from .gpu import embedding as gpu
from .tensors import DEVICES, buffer_of, dense_of, native_module, on_gpu

_KINDS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.int8: "int8"}


def embedding(
    ids: torch.Tensor, table: torch.Tensor, scales: torch.Tensor | None = None, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """``table[ids]`` float32 [T, C] of ids int32 or int64 [T] and table float32, bfloat16 or int8 [V, C].

    An int8 table comes with scales float32 [V], one per row. ``out`` float32 [T, C], apart from the inputs, is written
    and returned. All tensors are contiguous and on the CPU; there is no gradient. Raises ``InvalidArgumentError`` for a
    wrong type, dtype, device, shape or stride or an id outside 0..V-1, ``UnsupportedError`` for a tensor that requires
    a gradient.
    """
    if torch.compiler.is_compiling() and out is None:
        return torch.ops.tinygptv_fast.embedding(ids, table, scales)
    if on_gpu(table):
        return gpu.embedding(ids, table, scales, out)
    if not isinstance(table, torch.Tensor) or table.dtype not in _KINDS:
        what = str(table.dtype) if isinstance(table, torch.Tensor) else type(table).__name__
        raise InvalidArgumentError(f"table is {what}, expected a float32, bfloat16 or int8 tensor")
    wide = isinstance(ids, torch.Tensor) and ids.dtype == torch.int64
    ids_buffer = buffer_of("ids", ids, torch.int64 if wide else torch.int32)
    if wide:
        ids_buffer = _narrow(ids).numpy()
    kind = _KINDS[table.dtype]
    rows = dense_of("table", table, table.dtype)
    if kind == "bf16":
        rows = rows.view(torch.float16)  # the bits: numpy has no bfloat16
    if out is None:
        out = torch.empty(ids.numel() if ids.dim() else 0, table.shape[1] if table.dim() == 2 else 0)
    native_module().embedding(
        buffer_of("out", out, torch.float32),
        ids_buffer,
        rows.numpy(),
        None if scales is None else buffer_of("scales", scales, torch.float32),
        kind,
    )
    return out


def _narrow(ids: torch.Tensor) -> torch.Tensor:
    """int64 ids as int32; what does not fit becomes an id that no table has."""
    return ids.clamp(-1, 2**31 - 1).to(torch.int32).contiguous()


@torch.library.custom_op("tinygptv_fast::embedding", mutates_args=(), device_types=DEVICES)
def _embedding_op(ids: torch.Tensor, table: torch.Tensor, scales: torch.Tensor | None = None) -> torch.Tensor:
    return embedding(ids, table, scales)


@_embedding_op.register_fake
def _embedding_fake(ids: torch.Tensor, table: torch.Tensor, scales: torch.Tensor | None = None) -> torch.Tensor:
    if ids.dim() != 1 or table.dim() != 2:
        raise InvalidArgumentError(f"ids is {list(ids.shape)} and table {list(table.shape)}, expected [T] and [V, C]")
    return table.new_empty(ids.shape[0], table.shape[1], dtype=torch.float32)
