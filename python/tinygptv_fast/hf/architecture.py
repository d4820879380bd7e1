"""From the configuration of a Phi in transformers to our ``TextConfig``: every field is used, or known not to matter,
or refused by name. Knows no weights but their names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..config import TextConfig
from ..errors import ConfigError, UnsupportedError

# Three spellings of one function: GELU's approximation by tanh.
_ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")
_DROPOUTS = ("resid_pdrop", "embd_pdrop", "attention_dropout")


@dataclass(frozen=True)
class PhiShape:
    """``text``: what the engine computes. ``kv_heads``: heads of K and V in the source, which are repeated to all."""

    text: TextConfig
    kv_heads: int


def read_shape(config: Any, names: Collection[str], *, rms_norm_eps: float = 1e-6) -> PhiShape:
    """config: a ``PhiConfig`` of transformers 4 or 5. names: canonical names of the model's tensors; they decide which
    norms there are. Raises UnsupportedError naming the field and its value."""
    family = getattr(config, "model_type", None)
    if family != "phi":
        raise UnsupportedError(f"model.config.model_type is {family!r}, expected 'phi': only Phi-1, 1.5 and 2 run here")
    rope = _rope(config)
    if getattr(config, "quantization_config", None):
        raise UnsupportedError(
            "model.config.quantization_config is set, expected unquantised weights: "
            "load the model without it and give accelerate(quantization='int4')"
        )
    if config.hidden_act not in _ACTIVATIONS:
        raise UnsupportedError(f"model.config.hidden_act is {config.hidden_act!r}, expected one of {_ACTIVATIONS}")
    heads, width = config.num_attention_heads, config.hidden_size
    if width % heads:
        raise UnsupportedError(
            f"model.config.hidden_size is {width}, expected a multiple of num_attention_heads={heads}"
        )
    head_dim = getattr(config, "head_dim", None) or width // heads
    if head_dim * heads != width:
        raise UnsupportedError(f"model.config.head_dim is {head_dim}, expected hidden_size/heads={width // heads}")
    if head_dim % 4 or head_dim > 256:
        raise UnsupportedError(f"model.config.head_dim is {head_dim}, expected a multiple of 4 up to 256")
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    if heads % kv_heads:
        raise UnsupportedError(f"model.config.num_key_value_heads is {kv_heads}, expected a divisor of {heads} heads")
    rotary = int(head_dim * rope["partial_rotary_factor"])
    if rotary % 2 or not 0 < rotary <= head_dim:
        raise UnsupportedError(
            f"model.config.partial_rotary_factor is {rope['partial_rotary_factor']}, which is {rotary} of {head_dim} "
            "dimensions, expected an even number above 0"
        )
    try:
        text = TextConfig(
            width=width,
            layers=config.num_hidden_layers,
            heads=heads,
            head_dim=head_dim,
            rotary_dims=rotary,
            mlp_width=config.intermediate_size,
            vocab_size=config.vocab_size,
            max_positions=config.max_position_embeddings,
            rope_theta=float(rope["rope_theta"]),
            norm_eps=config.layer_norm_eps,
            rms_norm_eps=rms_norm_eps,
            qk_norm=_has(names, "attn.q_norm"),
            post_attention_norm=_has(names, "attn.post_norm"),
        )
    except ConfigError as error:
        raise UnsupportedError(f"model.config cannot be run: {error}") from error
    return PhiShape(text, kv_heads)


def dropouts(config: Any) -> list[str]:
    """Names of the dropouts that are not 0: they act while ``model.training`` is set."""
    return [name for name in _DROPOUTS if getattr(config, name, 0.0)]


def _has(names: Collection[str], part: str) -> bool:
    return any(f".{part}." in name for name in names)


def _rope(config: Any) -> dict[str, Any]:
    """rope_theta and partial_rotary_factor, from the fields of transformers 5 (``rope_parameters``) or 4."""
    given = getattr(config, "rope_parameters", None) or {}
    scaling = getattr(config, "rope_scaling", None) or {}
    kind = _kind(given) or _kind(scaling) or "default"
    if kind != "default" or set(scaling) - set(given) - {"rope_type", "type"}:
        field = "rope_parameters" if given else "rope_scaling"
        raise UnsupportedError(f"model.config.{field} is {dict(given or scaling)}, expected rope_type 'default'")
    fallback = {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    return {name: given.get(name, getattr(config, name, value)) for name, value in fallback.items()}


def _kind(rope: Mapping[str, Any]) -> Any:
    return rope.get("rope_type", rope.get("type"))
