"""``config.json`` of a Phi directory (Hugging Face's Phi-1/1.5/2, old and new spelling, and phi-msft)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...config import TextConfig
from ...errors import CheckpointError, ConfigError, UnsupportedError
from ..files import read_json_object

_FAMILIES = ("phi", "phi-msft")
_MSFT_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
    "layer_norm_eps": "layer_norm_epsilon",
    "hidden_act": "activation_function",
}
# PhiConfig's own defaults: save_pretrained may leave out what equals them.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 51200,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "hidden_act": "gelu_new",
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
}


@dataclass(frozen=True)
class PhiConfig:
    """What the conversion needs of config.json. Norm flags of ``text`` are decided later, from the tensors."""

    text: TextConfig
    qk_layernorm: bool
    tied: bool
    token_ids: dict[str, int | None]


def read_phi_config(directory: Path) -> PhiConfig:
    """Parse ``directory/config.json``; another model family or an unsupported feature raises and says which."""
    path = directory / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{directory} has no config.json; expected a Phi directory")
    data = read_json_object(path)
    family = data.get("model_type")
    if family not in _FAMILIES and not (family is None and "PhiForCausalLM" in (data.get("architectures") or [])):
        raise CheckpointError(f"{path} describes model_type {family!r}, expected Phi ('phi'); wrong directory?")
    values = {name: _value(path, data, name) for name in _DEFAULTS}
    _reject_unsupported(path, data, values)
    heads, width = values["num_attention_heads"], values["hidden_size"]
    if type(heads) is not int or type(width) is not int or heads < 1 or width % heads:
        raise CheckpointError(f"{path}: hidden_size {width!r} is not a multiple of num_attention_heads {heads!r}")
    text = _text_config(path, data, values)
    return PhiConfig(
        text=text,
        qk_layernorm=bool(data.get("qk_layernorm", False)),
        tied=bool(data.get("tie_word_embeddings", False)),
        token_ids={name: _token_id(path, data, name, text.vocab_size) for name in ("bos", "eos", "pad")},
    )


def _text_config(path: Path, data: dict[str, Any], values: dict[str, Any]) -> TextConfig:
    heads, width = values["num_attention_heads"], values["hidden_size"]
    try:
        return TextConfig(
            width=width,
            layers=values["num_hidden_layers"],
            heads=heads,
            head_dim=width // heads,
            rotary_dims=_rotary_dims(path, data, values["partial_rotary_factor"], width // heads),
            mlp_width=values["intermediate_size"] or 4 * width,
            vocab_size=values["vocab_size"],
            max_positions=values["max_position_embeddings"],
            rope_theta=values["rope_theta"],
            norm_eps=values["layer_norm_eps"],
            qk_norm=False,
            post_attention_norm=False,
        )
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _value(path: Path, data: dict[str, Any], name: str) -> Any:
    rope = data.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise CheckpointError(f"{path}: rope_parameters is {rope!r}, expected an object")
    for place, key in ((rope, name), (data, name), (data, _MSFT_NAMES.get(name, name))):
        if key in place and (place[key] is not None or name == "intermediate_size"):
            return place[key]
    return _DEFAULTS[name]


def _reject_unsupported(path: Path, data: dict[str, Any], values: dict[str, Any]) -> None:
    rope = data.get("rope_parameters") or {}
    if data.get("rope_scaling") or rope.get("rope_type", "default") != "default":
        raise UnsupportedError(
            f"{path} asks for scaled rotary positions ({rope or data['rope_scaling']}); not supported"
        )
    if values["hidden_act"] not in ("gelu_new", "gelu_pytorch_tanh"):
        raise UnsupportedError(f"{path}: hidden_act is {values['hidden_act']!r}, expected 'gelu_new'")
    kv_heads = data.get("num_key_value_heads", data.get("n_head_kv"))
    if kv_heads not in (None, values["num_attention_heads"]):
        raise UnsupportedError(f"{path}: num_key_value_heads is {kv_heads}, expected one per head (no grouped queries)")


def _rotary_dims(path: Path, data: dict[str, Any], factor: Any, head_dim: int) -> int:
    if "rotary_dim" in data and data.get("model_type") == "phi-msft":
        return int(data["rotary_dim"])
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 <= factor <= 1:
        raise CheckpointError(f"{path}: partial_rotary_factor is {factor!r}, expected 0..1")
    return int(factor * head_dim)  # truncates, as the original does


def _token_id(path: Path, data: dict[str, Any], name: str, vocab_size: int) -> int | None:
    value = data.get(f"{name}_token_id")
    if value is None:
        return None  # never the class default: the original's 2 is '#' in this vocabulary
    if type(value) is not int or not 0 <= value < vocab_size:
        raise CheckpointError(f"{path}: {name}_token_id is {value!r}, expected null or 0..{vocab_size - 1}")
    return value
