"""Every kernel alone, on torch tensors: ``tgv.ops.<op>``, and ``torch.ops.tinygptv_fast.<op>`` for torch.compile.

Knows torch tensors and the native core; no model, no files. The slow twin of each op is in ``reference``.
"""

from .int4_matmul import PackedInt4, int4_matmul, pack_int4
from .paged_attention import paged_attention
from .qkv_append import qkv_append

__all__ = ["PackedInt4", "int4_matmul", "pack_int4", "paged_attention", "qkv_append"]
