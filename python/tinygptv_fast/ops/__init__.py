"""Every kernel alone, on torch tensors: ``tgv.ops.<op>``, and ``torch.ops.tinygptv_fast.<op>`` for torch.compile.

Knows torch tensors and the native core; no model, no files. The slow twin of each op is in ``reference``.
"""

from .embedding import embedding
from .int4_matmul import PackedInt4, int4_matmul, pack_int4
from .int8_matmul import PackedInt8, int8_matmul, pack_int8
from .matmul import PackedFloat, matmul, pack_float
from .norm import add_branches, layer_norm, rms_norm
from .paged_attention import paged_attention
from .qkv_append import qkv_append
from .sampling import SampledToken, log_softmax, sample, top_logprobs

__all__ = [
    "PackedFloat",
    "PackedInt4",
    "PackedInt8",
    "SampledToken",
    "add_branches",
    "embedding",
    "int4_matmul",
    "int8_matmul",
    "layer_norm",
    "log_softmax",
    "matmul",
    "pack_float",
    "pack_int4",
    "pack_int8",
    "paged_attention",
    "qkv_append",
    "rms_norm",
    "sample",
    "top_logprobs",
]
