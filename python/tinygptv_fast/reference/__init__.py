"""The model in plain torch: the oracle every fast path is compared with, and the model that training runs on.

Knows nothing of files, native code or the engine. State dict names are the tensor names of ``docs/architecture.md``.
"""

from .generation import GenerationOptions, GenerationResult, generate
from .int4_matmul import int4_matmul
from .int8_matmul import int8_matmul
from .layout import ChatLayout, TrainingBatch
from .lora import LoraLinear
from .loss import causal_lm_loss
from .matmul import matmul
from .model import TinyGPTVReference
from .phi import KVCache, PhiBackbone
from .projector import Projector
from .qformer import QFormer
from .ranking import rank_candidates
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
    "causal_lm_loss",
    "generate",
    "int4_matmul",
    "int8_matmul",
    "interpolate_position_embedding",
    "matmul",
    "rank_candidates",
]
