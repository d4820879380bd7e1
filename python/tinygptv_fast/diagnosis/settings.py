"""Which settings fit a machine: bytes and limits *predicted* from sizes alone, no model loaded, nothing timed.

The decode limit is read bandwidth divided by the weight bytes that one token must read: no engine can be faster at
batch 1 on weights that exceed the caches. It is a limit, not a measurement.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..config import ModelConfig, QFormerConfig, QuantizationConfig, VisionConfig

KV_POSITIONS = 2048
_KV_BYTES = 2  # float16 keys and values
_WORKSPACE_BYTES = 256 << 20  # activations of the tower at 448 px and of the longest prompt, rounded up
_FLOAT32_BYTES = 4

RELEASED = ModelConfig(vision=VisionConfig(), qformer=QFormerConfig())
"""The sizes of the released TinyGPT-V, stage 4."""

TEXT_KINDS = ("int4", "int8", "none")
VISION_KINDS = ("int8", "bfloat16", "float32")


@dataclass(frozen=True)
class Prediction:
    """One setting. ``memory_bytes``: packed weights, float16 keys and values of ``KV_POSITIONS`` positions, workspace.
    ``token_bytes``: weights read per decoded token. ``decode_limit``: tokens per second, None without a bandwidth."""

    text: str
    vision: str
    file_bytes: int
    memory_bytes: int
    token_bytes: int
    decode_limit: float | None
    fits: bool

    def to_dict(self) -> dict[str, Any]:
        """A json-ready dict."""
        return dataclasses.asdict(self)


def predict(
    config: ModelConfig, *, usable_bytes: int, read_bandwidth: float | None, text_dtype: str = "bfloat16"
) -> list[Prediction]:
    """One prediction per text × vision setting (text-only models: per text setting) of a model of these sizes."""
    kinds = VISION_KINDS if config.vision is not None else VISION_KINDS[-1:]
    out = []
    for text in TEXT_KINDS:
        for vision in kinds:
            quantization = dataclasses.replace(config.quantization, text=text, vision=vision)
            chosen = dataclasses.replace(config, quantization=quantization, dtype=text_dtype)
            out.append(predict_one(chosen, usable_bytes=usable_bytes, read_bandwidth=read_bandwidth))
    return out


def predict_one(config: ModelConfig, *, usable_bytes: int, read_bandwidth: float | None) -> Prediction:
    """The prediction for exactly this configuration."""
    sizes = stored_bytes(config)
    file_bytes = sum(sizes.values())
    token_bytes = sum(size for name, size in sizes.items() if name.startswith("text.") and ".embed." not in name)
    memory = file_bytes + kv_bytes(config) + _WORKSPACE_BYTES
    limit = read_bandwidth / token_bytes if read_bandwidth else None
    kinds = config.quantization
    text = config.dtype if kinds.text == "none" else kinds.text
    return Prediction(text, kinds.vision, file_bytes, memory, token_bytes, limit, memory <= usable_bytes)


def stored_bytes(config: ModelConfig) -> dict[str, int]:
    """Bytes in ``model.safetensors`` of every canonical tensor."""
    from ..checkpoint.names import canonical_shapes, parts, storage_kind

    quantization: QuantizationConfig = config.quantization
    return {
        name: sum(part.nbytes for part in parts(name, shape, storage_kind(name, config), quantization))
        for name, shape in canonical_shapes(config).items()
    }


def kv_bytes(config: ModelConfig, positions: int = KV_POSITIONS) -> int:
    """Keys and values of ``positions`` positions in float16."""
    return 2 * _KV_BYTES * config.text.layers * config.text.width * min(positions, config.text.max_positions)


def reference_bytes(config: ModelConfig) -> int:
    """Memory of the reference backend: every weight in float32, float32 keys and values, workspace."""
    import math

    from ..checkpoint.names import canonical_shapes

    weights = sum(math.prod(shape) for shape in canonical_shapes(config).values()) * _FLOAT32_BYTES
    return weights + kv_bytes(config) * _FLOAT32_BYTES // _KV_BYTES + _WORKSPACE_BYTES
