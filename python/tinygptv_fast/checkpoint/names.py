"""Which tensors a model directory holds: canonical names, shapes, and how each is stored (docs/architecture.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..config import ModelConfig, QFormerConfig, QuantizationConfig, TextConfig, VisionConfig
from .dtypes import ITEM_BYTES

Shapes = dict[str, tuple[int, ...]]

_TEXT_MATRIX = re.compile(r"text\.(layers\.\d+\.(attn\.(qkv|out)|mlp\.fc[12])|head)\.weight")
_VISION_MATRIX = re.compile(
    r"(vision\.layers\.\d+\.(attn\.(qkv|out)|mlp\.fc[12])"
    r"|qformer\.layers\.\d+\.((self|cross)_attn\.(query|key|value|out)|mlp\.fc[12])|projector)\.weight"
)
FLOAT_CODES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""Storage kinds that are not quantised, and their codes of ``dtypes``."""


def _linear(out: Shapes, name: str, rows: int, columns: int) -> None:
    out[f"{name}.weight"] = (rows, columns)
    out[f"{name}.bias"] = (rows,)


def _norm(out: Shapes, name: str, width: int) -> None:
    out[f"{name}.weight"] = (width,)
    out[f"{name}.bias"] = (width,)


def text_shapes(text: TextConfig) -> Shapes:
    out: Shapes = {"text.embed.weight": (text.vocab_size, text.width)}
    for index in range(text.layers):
        layer = f"text.layers.{index}"
        _norm(out, f"{layer}.norm", text.width)
        _linear(out, f"{layer}.attn.qkv", 3 * text.width, text.width)
        if text.qk_norm:
            _norm(out, f"{layer}.attn.q_norm", text.head_dim)
            _norm(out, f"{layer}.attn.k_norm", text.head_dim)
        _linear(out, f"{layer}.attn.out", text.width, text.width)
        if text.post_attention_norm:
            out[f"{layer}.attn.post_norm.weight"] = (text.width,)
        _linear(out, f"{layer}.mlp.fc1", text.mlp_width, text.width)
        _linear(out, f"{layer}.mlp.fc2", text.width, text.mlp_width)
    _norm(out, "text.final_norm", text.width)
    _linear(out, "text.head", text.vocab_size, text.width)
    return out


def vision_shapes(vision: VisionConfig) -> Shapes:
    """The tower and ``ln_vision``."""
    width, patch = vision.width, vision.patch_size
    out: Shapes = {
        "vision.cls_token": (width,),
        "vision.pos_embed": (vision.tokens, width),
        "vision.patch_embed.weight": (width, 3, patch, patch),
        "vision.patch_embed.bias": (width,),
    }
    for index in range(vision.layers):
        layer = f"vision.layers.{index}"
        _norm(out, f"{layer}.norm1", width)
        _linear(out, f"{layer}.attn.qkv", 3 * width, width)
        _linear(out, f"{layer}.attn.out", width, width)
        _norm(out, f"{layer}.norm2", width)
        _linear(out, f"{layer}.mlp.fc1", vision.mlp_width, width)
        _linear(out, f"{layer}.mlp.fc2", width, vision.mlp_width)
    _norm(out, "ln_vision", width)
    return out


def qformer_shapes(qformer: QFormerConfig, vision_width: int, text_width: int) -> Shapes:
    """The Q-Former's query branch and the projector."""
    width = qformer.width
    out: Shapes = {"qformer.query_tokens": (qformer.queries, width)}
    _norm(out, "qformer.norm", width)
    for index in range(qformer.layers):
        layer = f"qformer.layers.{index}"
        _attention(out, f"{layer}.self_attn", width, width)
        if index % qformer.cross_attention_every == 0:
            _attention(out, f"{layer}.cross_attn", width, vision_width)
        _linear(out, f"{layer}.mlp.fc1", qformer.mlp_width, width)
        _linear(out, f"{layer}.mlp.fc2", width, qformer.mlp_width)
        _norm(out, f"{layer}.mlp.norm", width)
    _linear(out, "projector", text_width, width)
    return out


def _attention(out: Shapes, name: str, width: int, source: int) -> None:
    _linear(out, f"{name}.query", width, width)
    _linear(out, f"{name}.key", width, source)
    _linear(out, f"{name}.value", width, source)
    _linear(out, f"{name}.out", width, width)
    _norm(out, f"{name}.norm", width)


def canonical_shapes(config: ModelConfig) -> Shapes:
    """Every tensor of a model of this configuration, unquantised."""
    out: Shapes = {}
    if config.vision is not None and config.qformer is not None:
        out.update(vision_shapes(config.vision))
        out.update(qformer_shapes(config.qformer, config.vision.width, config.text.width))
    out.update(text_shapes(config.text))
    return out


def storage_kind(name: str, config: ModelConfig) -> str:
    """``'int4'``, ``'int8'`` or a float dtype's name: how tensor ``name`` is stored under ``config``."""
    quantization = config.quantization
    if _VISION_MATRIX.fullmatch(name):
        return quantization.vision
    if name == "text.embed.weight" and quantization.text != "none":
        return "int8"
    if name == "text.embed.weight" or _TEXT_MATRIX.fullmatch(name):
        return config.dtype if quantization.text == "none" else quantization.text
    return "float32"


def is_text_matrix(name: str) -> bool:
    """True for the matrices ``config.dtype`` speaks of (embedding and head included)."""
    return name == "text.embed.weight" or _TEXT_MATRIX.fullmatch(name) is not None


@dataclass(frozen=True)
class Part:
    """One tensor of the file that stores (part of) a canonical tensor."""

    name: str
    shape: tuple[int, ...]
    code: str  # of ``dtypes``

    @property
    def nbytes(self) -> int:
        count = ITEM_BYTES[self.code]
        for size in self.shape:
            count *= size
        return count


def parts(name: str, shape: tuple[int, ...], kind: str, quantization: QuantizationConfig) -> list[Part]:
    """The tensors of ``model.safetensors`` that store canonical tensor ``name`` in storage ``kind``."""
    if kind in FLOAT_CODES:
        return [Part(name, shape, FLOAT_CODES[kind])]
    stem = name.removesuffix(".weight")
    rows, columns = shape
    if kind == "int8":
        return [Part(f"{stem}.qweight", shape, "I8"), Part(f"{stem}.scales", (rows,), "F32")]
    groups = -(-columns // quantization.group_size)
    out = [
        Part(f"{stem}.qweight", (rows, -(-columns // 2)), "U8"),
        Part(f"{stem}.scales", (rows, groups), "F16"),
    ]
    if not quantization.symmetric:
        out.append(Part(f"{stem}.zeros", (rows, -(-groups // 2)), "U8"))
    return out
