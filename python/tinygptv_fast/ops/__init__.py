"""Every kernel alone, on torch tensors: ``tgv.ops.<op>``, and ``torch.ops.tinygptv_fast.<op>`` for torch.compile.

Knows torch tensors and the native core; no model, no files. The slow twin of each op is in ``reference``.
"""

from .int4_matmul import PackedInt4, int4_matmul, pack_int4
from .int8_matmul import PackedInt8, int8_matmul, pack_int8
from .matmul import PackedFloat, matmul, pack_float

__all__ = [
    "PackedFloat",
    "PackedInt4",
    "PackedInt8",
    "int4_matmul",
    "int8_matmul",
    "matmul",
    "pack_float",
    "pack_int4",
    "pack_int8",
]
