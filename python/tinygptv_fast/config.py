"""Frozen, validated descriptions of the model. Pure data: no torch, no files beyond json text.

Names of sizes follow the one alphabet of the project (docs/architecture.md): ``C`` width, ``H`` heads, ``D`` head
dim, ``R`` rotary dims, ``F`` MLP width, ``V`` vocabulary, ``L`` layers, ``E`` vision width, ``NQ`` query tokens.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .errors import ConfigError

FORMAT_VERSION = 1
_T = TypeVar("_T")


def _positive(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{type(owner).__name__}.{name} is {value!r}, expected an integer >= 1")


def _positive_float(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise ConfigError(f"{type(owner).__name__}.{name} is {value!r}, expected a finite number > 0")


def _divides(owner: object, small: str, large: str) -> None:
    a, b = getattr(owner, small), getattr(owner, large)
    if b % a:
        raise ConfigError(f"{type(owner).__name__}.{large} is {b}, expected a multiple of {small}={a}")


@dataclass(frozen=True)
class VisionConfig:
    """EVA-CLIP ViT (original: minigpt4/models/eva_vit.py). Defaults are ViT-g/14 at stage 4's 448 px."""

    image_size: int = 448
    patch_size: int = 14
    width: int = 1408  # E
    layers: int = 39
    heads: int = 16
    mlp_width: int = 6144  # int(1408 * 4.3637)
    norm_eps: float = 1e-6
    ln_vision_eps: float = 1e-5  # the LayerNorm between tower and Q-Former

    def __post_init__(self) -> None:
        _positive(self, "image_size", "patch_size", "width", "layers", "heads", "mlp_width")
        _positive_float(self, "norm_eps", "ln_vision_eps")
        _divides(self, "patch_size", "image_size")
        _divides(self, "heads", "width")

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """I: patches + 1 class token."""
        return self.grid**2 + 1


@dataclass(frozen=True)
class QFormerConfig:
    """BLIP-2 Q-Former, query branch only (original: minigpt4/models/Qformer.py)."""

    queries: int = 32  # NQ
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    cross_attention_every: int = 2
    norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        _positive(self, "queries", "width", "layers", "heads", "mlp_width", "cross_attention_every")
        _positive_float(self, "norm_eps")
        _divides(self, "heads", "width")


@dataclass(frozen=True)
class TextConfig:
    """The Phi backbone. ``qk_norm`` and ``post_attention_norm`` off is stock Phi-1/1.5/2."""

    width: int = 2560  # C
    layers: int = 32  # L
    heads: int = 32  # H
    head_dim: int = 80  # D
    rotary_dims: int = 32  # R
    mlp_width: int = 10240  # F
    vocab_size: int = 51200  # V
    max_positions: int = 2048
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5  # LayerNorms, q/k norm included
    rms_norm_eps: float = 1e-6  # post-attention RMSNorm: fixed in the original, not in its config
    qk_norm: bool = True
    post_attention_norm: bool = True

    def __post_init__(self) -> None:
        _positive(self, "width", "layers", "heads", "head_dim", "mlp_width", "vocab_size", "max_positions")
        _positive_float(self, "rope_theta", "norm_eps", "rms_norm_eps")
        if self.heads * self.head_dim != self.width:
            raise ConfigError(f"TextConfig.width is {self.width}, expected heads*head_dim={self.heads * self.head_dim}")
        if type(self.rotary_dims) is not int or self.rotary_dims % 2 or not 0 <= self.rotary_dims <= self.head_dim:
            raise ConfigError(f"TextConfig.rotary_dims is {self.rotary_dims}, expected an even 0..{self.head_dim}")


@dataclass(frozen=True)
class LoraConfig:
    """LoRA of the original: targets query_key_value and dense, no bias, scale alpha/rank."""

    rank: int = 64
    alpha: float = 16.0
    dropout: float = 0.05

    def __post_init__(self) -> None:
        _positive(self, "rank")
        _positive_float(self, "alpha")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"LoraConfig.dropout is {self.dropout!r}, expected 0 <= dropout < 1")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True)
class QuantizationConfig:
    """How the tensors of a directory are stored. ``text='none'`` keeps ``dtype``."""

    text: str = "none"  # none | int8 | int4
    group_size: int = 32
    symmetric: bool = True
    vision: str = "float32"  # float32 | bfloat16 | int8

    def __post_init__(self) -> None:
        if self.text not in ("none", "int8", "int4"):
            raise ConfigError(f"quantization.text is {self.text!r}, expected 'none', 'int8' or 'int4'")
        if self.group_size not in (32, 64, 128):
            raise ConfigError(f"quantization.group_size is {self.group_size!r}, expected 32, 64 or 128")
        if self.vision not in ("float32", "bfloat16", "int8"):
            raise ConfigError(f"quantization.vision is {self.vision!r}, expected 'float32', 'bfloat16' or 'int8'")


@dataclass(frozen=True)
class ModelConfig:
    """One model directory: ``config.json``. ``vision``/``qformer`` are None for text-only Phi."""

    text: TextConfig = field(default_factory=TextConfig)
    vision: VisionConfig | None = None
    qformer: QFormerConfig | None = None
    quantization: QuantizationConfig = field(default_factory=QuantizationConfig)
    dtype: str = "float32"  # of unquantised text matrices: float32 | bfloat16 | float16
    model_type: str = "tinygptv"
    format_version: int = FORMAT_VERSION
    stage: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    architectures: tuple[str, ...] = ("TinyGPTVForConditionalGeneration",)

    def __post_init__(self) -> None:
        if (self.vision is None) != (self.qformer is None):
            raise ConfigError("config has one of 'vision' and 'qformer', expected both or neither")
        if self.model_type != "tinygptv":
            raise ConfigError(f"config.model_type is {self.model_type!r}, expected 'tinygptv'")
        if self.stage not in (None, 1, 2, 3, 4):
            raise ConfigError(f"config.stage is {self.stage!r}, expected null or 1..4")
        if self.format_version != FORMAT_VERSION:
            raise ConfigError(f"config.format_version is {self.format_version!r}, expected {FORMAT_VERSION}")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ConfigError(f"config.dtype is {self.dtype!r}, expected 'float32', 'bfloat16' or 'float16'")
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not 0 <= value < self.text.vocab_size):
                raise ConfigError(f"config.{name} is {value!r}, expected null or 0..{self.text.vocab_size - 1}")

    def to_dict(self) -> dict[str, Any]:
        """A json-ready dict that ``from_dict`` reads back to an equal object."""
        out = dataclasses.asdict(self)
        out["architectures"] = list(self.architectures)
        return out

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelConfig:
        """Strict inverse of ``to_dict``: unknown keys and wrong types raise ``ConfigError``."""
        data = dict(data)
        for name, part in _PARTS.items():
            if data.get(name) is not None or (name in ("text", "quantization") and name in data):
                data[name] = from_dict(part, data[name], f"config.{name}")
        if "architectures" in data:
            names = data["architectures"]
            if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
                raise ConfigError(f"config.architectures is {names!r}, expected a list of strings")
            data["architectures"] = tuple(names)
        return from_dict(cls, data, "config")


_PARTS = {"text": TextConfig, "vision": VisionConfig, "qformer": QFormerConfig, "quantization": QuantizationConfig}


def from_dict(cls: type[_T], data: Any, where: str) -> _T:
    """Build dataclass ``cls`` from a json object; ``where`` names it in errors. Unknown keys raise."""
    if not isinstance(data, dict):
        raise ConfigError(f"{where} is {type(data).__name__}, expected a json object")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ConfigError(f"{where} has unknown keys {unknown}, expected a subset of {sorted(fields)}")
    for name, value in data.items():
        if fields[name].type in ("bool", bool) and not isinstance(value, bool):
            raise ConfigError(f"{where}.{name} is {value!r}, expected true or false")
        if fields[name].type in ("str", str) and not isinstance(value, str):
            raise ConfigError(f"{where}.{name} is {value!r}, expected a string")
    try:
        return cls(**data)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from error
