"""Sizes of the frozen parts, which the original hard-codes and its files do not state.

``None`` means the released model's sizes. Tests and small models pass a dict or json file in the form of
``tests/golden/sizes.json``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..config import QFormerConfig, VisionConfig
from ..errors import ConfigError
from .files import read_json_object

_IGNORED = frozenset({"versions", "seed", "tries", "tokenizer_len", "bos_eos_pad_id"})
_VIT = {"embed_dim", "depth", "num_heads", "patch_size", "mlp_ratio", "norm_eps"}
_VIT_OPTIONAL = {"checkpoint_image_size", "checkpoint_depth"}
_QFORMER = {
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "cross_attention_freq",
    "layer_norm_eps",
}
_OTHER = {"img_small", "img_large", "num_query", "proj", "phi", "lora_r", "lora_alpha", "vit", "qf"}


@dataclass(frozen=True)
class Architecture:
    """Defaults are the released model: EVA ViT-g/14 (39 of 40 blocks), BLIP-2 Q-Former, 4096-wide projection.

    ``phi`` holds sizes to check against the Phi directory's config.json; ``lora_rank`` None accepts the file's rank.
    """

    vision: VisionConfig = field(default_factory=VisionConfig)
    qformer: QFormerConfig = field(default_factory=QFormerConfig)
    projection: int = 4096
    checkpoint_image_size: int = 224
    checkpoint_depth: int = 40
    lora_rank: int | None = None
    lora_alpha: float | None = None
    phi: Mapping[str, Any] | None = None


def read_architecture(source: Mapping[str, Any] | str | os.PathLike[str] | None) -> Architecture:
    """An ``Architecture`` from a dict, a json file, or the released sizes for None. Unknown keys raise."""
    if source is None:
        return Architecture()
    data = dict(source) if isinstance(source, Mapping) else read_json_object(source)
    unknown = sorted(set(data) - _OTHER - _IGNORED)
    if unknown:
        raise ConfigError(f"architecture has unknown keys {unknown}, expected a subset of {sorted(_OTHER | _IGNORED)}")
    vit = _section(data, "vit", _VIT, _VIT_OPTIONAL)
    qf = _section(data, "qf", _QFORMER, set())
    image_size = vit.get("checkpoint_image_size", data.get("img_small", 224))
    vision = VisionConfig(
        image_size=image_size,
        patch_size=vit["patch_size"],
        width=vit["embed_dim"],
        layers=vit["depth"],
        heads=vit["num_heads"],
        mlp_width=int(vit["embed_dim"] * _number("vit.mlp_ratio", vit["mlp_ratio"])),
        norm_eps=vit["norm_eps"],
    )
    qformer = QFormerConfig(
        queries=_required(data, "num_query"),
        width=qf["hidden_size"],
        layers=qf["num_hidden_layers"],
        heads=qf["num_attention_heads"],
        mlp_width=qf["intermediate_size"],
        cross_attention_every=qf["cross_attention_freq"],
        norm_eps=qf["layer_norm_eps"],
    )
    return Architecture(
        vision=vision,
        qformer=qformer,
        projection=_positive("proj", _required(data, "proj")),
        checkpoint_image_size=_positive("vit.checkpoint_image_size", image_size),
        checkpoint_depth=_positive("vit.checkpoint_depth", vit.get("checkpoint_depth", vit["depth"] + 1)),
        lora_rank=_natural_or_none("lora_r", data.get("lora_r")),
        lora_alpha=None if data.get("lora_alpha") is None else _number("lora_alpha", data["lora_alpha"]),
        phi=data.get("phi"),
    )


def _section(data: Mapping[str, Any], name: str, needed: set[str], optional: set[str]) -> dict[str, Any]:
    value = _required(data, name)
    if not isinstance(value, Mapping):
        raise ConfigError(f"architecture.{name} is {value!r}, expected an object")
    missing, unknown = sorted(needed - set(value)), sorted(set(value) - needed - optional)
    if missing or unknown:
        raise ConfigError(f"architecture.{name} lacks {missing} and has unknown {unknown}; expected {sorted(needed)}")
    if not isinstance(value.get("embed_dim", 1), int) or isinstance(value.get("depth", 1), bool):
        raise ConfigError(f"architecture.{name} has sizes that are not integers")
    return dict(value)


def _required(data: Mapping[str, Any], name: str) -> Any:
    if name not in data:
        raise ConfigError(f"architecture lacks {name!r}")
    return data[name]


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e6:
        raise ConfigError(f"architecture.{name} is {value!r}, expected a number > 0")
    return float(value)


def _positive(name: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ConfigError(f"architecture.{name} is {value!r}, expected an integer >= 1")
    return value


def _natural_or_none(name: str, value: Any) -> int | None:
    if value is None or (type(value) is int and value >= 0):
        return value
    raise ConfigError(f"architecture.{name} is {value!r}, expected an integer >= 0")
