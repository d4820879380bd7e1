"""Serving on the native engine: packed weights, their cache on disk, and the backend that the facade calls.

Builds no nn.Module and imports none: weights go from the mapped file to the packed block, tensor by tensor.
None of it imports torch but ``pictures``, which is imported by who wants the vision side.
"""

from .forms import KV_KINDS, Forms, choose_forms
from .native_backend import NativeBackend, choose_kv_tokens
from .packed_cache import PackedCache
from .weights import load_weights

__all__ = [
    "KV_KINDS",
    "Forms",
    "NativeBackend",
    "PackedCache",
    "choose_forms",
    "choose_kv_tokens",
    "load_weights",
]
