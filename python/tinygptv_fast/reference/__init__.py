"""The model in plain torch: the oracle every fast path is compared with, and the model that training runs on.

Knows nothing of files, native code or the engine. State dict names are the tensor names of ``docs/architecture.md``.
"""

from .embedding import embedding
from .generation import GenerationOptions, GenerationResult, generate
from .int4_matmul import int4_matmul
from .int8_matmul import int8_matmul
from .layout import ChatLayout, TrainingBatch
from .lora import LoraLinear
from .loss import causal_lm_loss
from .matmul import matmul
from .model import TinyGPTVReference
from .norm import add_branches, layer_norm, rms_norm
from .paged_attention import paged_attention, qkv_append
from .phi import KVCache, PhiBackbone
from .projector import Projector
from .qformer import QFormer
from .ranking import rank_candidates
from .sampling import log_softmax, sample, top_logprobs
from .vision import VisionTower, interpolate_position_embedding

__all__ = [
    "ChatLayout",
    "GenerationOptions",
    "GenerationResult",
    "KVCache",
    "LoraLinear",
    "PhiBackbone",
    "Projector",
    "QFormer",
    "TinyGPTVReference",
    "TrainingBatch",
    "VisionTower",
    "add_branches",
    "causal_lm_loss",
    "embedding",
    "generate",
    "int4_matmul",
    "int8_matmul",
    "interpolate_position_embedding",
    "layer_norm",
    "log_softmax",
    "matmul",
    "paged_attention",
    "qkv_append",
    "rank_candidates",
    "rms_norm",
    "sample",
    "top_logprobs",
]
