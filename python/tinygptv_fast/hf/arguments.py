"""What ``generate`` and ``accelerate`` are given, checked before anything runs: one sentence for each mistake."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import GenerationConfig

from ..env import MAX_THREADS
from ..errors import InvalidArgumentError, UnsupportedError
from ..generate.names import check_names
from .cache import NativeCache

QUANTIZATIONS = ("none", "int8", "int4")
DTYPES = ("float32", "bfloat16")
# name: what it is, its least and its greatest value. Of the rest transformers complains.
_RANGES: Mapping[str, tuple[str, float, float | None]] = {
    "num_beams": ("an integer", 1, None),
    "num_return_sequences": ("an integer", 1, None),
    "max_new_tokens": ("an integer", 1, None),
    "max_length": ("an integer", 1, None),
    "min_new_tokens": ("an integer", 0, None),
    "min_length": ("an integer", 0, None),
    "top_k": ("an integer", 0, None),
    "temperature": ("a number", 0, None),
    "top_p": ("a number", 0, 1),
    "min_p": ("a number", 0, 1),
}

OPTIONAL = (
    "output_attentions",
    "output_hidden_states",
    "position_ids",
    "cache_position",
    "labels",
)
"""Arguments of a forward pass of torch models, which mean nothing here when they are None or False."""

_MOST_SEQUENCES = 1024
_MOST_TOKENS = 2**31 - 1
_LARGEST_SEED = 2**63 - 1

# Beside the fields of GenerationConfig.
_OF_GENERATE = (
    "inputs",
    "generation_config",
    "logits_processor",
    "stopping_criteria",
    "prefix_allowed_tokens_fn",
    "synced_gpus",
    "assistant_model",
    "streamer",
    "negative_prompt_ids",
    "negative_prompt_attention_mask",
    "use_model_defaults",
    "custom_generate",
    "tokenizer",
    "assistant_tokenizer",
    "trust_remote_code",
    "input_ids",
    "attention_mask",
    "inputs_embeds",
    "past_key_values",
    "logits_to_keep",
)
# name: (values that ask for nothing, what to do instead)
_UNSUPPORTED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "output_attentions": ((None, False), "attention maps are never made; use the torch model for them"),
    "output_hidden_states": ((None, False), "hidden states stay in the native core; use the torch model for them"),
    "assistant_model": ((None,), "leave it out: the result is the same without a draft model"),
    "assistant_early_exit": ((None,), "leave it out: the result is the same without it"),
    "custom_generate": ((None,), "leave it out, or give its code the model itself"),
    "synced_gpus": ((None, False), "leave it out: the model runs in this process alone"),
    "cache_implementation": ((None, "dynamic"), "leave it out: keys and values are in the native cache"),
    "position_ids": ((None,), "leave it out: positions follow from attention_mask"),
    "cache_position": ((None,), "leave it out: positions follow from attention_mask"),
    "labels": ((None,), "train the torch model, then accelerate it"),
}


def check_generate(given: Mapping[str, Any], config: Any, default: GenerationConfig, extra: Iterable[str] = ()) -> None:
    """given: every argument of a call of ``generate`` by name. config: its ``generation_config``; default: the model's;
    extra: names that this model knows besides.
    Raises InvalidArgumentError for a name that nothing has, with the nearest one; UnsupportedError for what cannot be
    run."""
    if config is not None and not isinstance(config, GenerationConfig):
        raise InvalidArgumentError(f"generation_config is {type(config).__name__}, expected a GenerationConfig")
    base = {**vars(default), **(vars(config) if config is not None else {})}
    known = {*extra, *_OF_GENERATE, *_UNSUPPORTED, *vars(GenerationConfig()), *base}
    check_names("generate", given, (name for name in known if not name.startswith("_")))
    check_supported({**base, **{name: value for name, value in given.items() if value is not None}})
    for name, (kind, low, high) in _RANGES.items():
        _check_range(name, given.get(name), kind, low, high)
    for name in ("inputs", "input_ids", "attention_mask", "inputs_embeds"):
        value = given.get(name)
        if value is not None and not isinstance(value, torch.Tensor):
            raise InvalidArgumentError(f"{name} is {type(value).__name__}, expected a torch.Tensor")
    _check_mask(given)


def _check_range(name: str, value: Any, kind: str, low: float, high: float | None) -> None:
    types = (int,) if kind == "an integer" else (int, float)
    if value is None or (type(value) in types and low <= value and (high is None or value <= high)):
        return
    expected = f"{kind} >= {low}" if high is None else f"{kind} in {low}..{high}"
    raise InvalidArgumentError(f"{name} is {value!r}, expected {expected}")


def _check_mask(given: Mapping[str, Any]) -> None:
    """Of a call that begins a cache: one that goes on has columns of its own, and is checked when it runs."""
    mask = given.get("attention_mask")
    prompts = [given[name] for name in ("inputs_embeds", "input_ids", "inputs") if given.get(name) is not None]
    if mask is None or mask.dim() != 2 or not prompts or given.get("past_key_values") is not None:
        return
    check_mask(mask, prompts[0])


def check_mask(mask: torch.Tensor, prompt: torch.Tensor) -> None:
    """Raises InvalidArgumentError unless mask is [B, T] as prompt, ids [B, T] or embeddings, with no empty row."""
    if not isinstance(mask, torch.Tensor) or mask.shape != prompt.shape[:2]:
        found = list(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise InvalidArgumentError(f"attention_mask is {found}, expected {list(prompt.shape[:2])}")
    empty = (mask == 0).all(1)
    if bool(empty.any()):
        row = int(empty.nonzero()[0])
        raise InvalidArgumentError(f"attention_mask[{row}] is all 0, expected at least one position per row")


def pads_right(given: Mapping[str, Any], config: GenerationConfig | None, default: GenerationConfig) -> bool:
    """Whether the last column of the prompt is padding in some row: by attention_mask, or where there is none by the
    rule transformers infers one with (the padding id occurs, and ends no row)."""
    mask = given.get("attention_mask")
    if mask is not None:
        return mask.dim() == 2 and bool((mask[:, -1:] == 0).any())
    ids = given.get("inputs", given.get("input_ids"))
    if ids is None or ids.is_floating_point() or ids.dim() != 2 or given.get("inputs_embeds") is not None:
        return False
    pad, eos = (_setting(name, given, config, default) for name in ("pad_token_id", "eos_token_id"))
    if pad is None or pad in torch.as_tensor([] if eos is None else eos).flatten().tolist():
        return False
    return bool((ids[:, -1:] == pad).any())


def _setting(name: str, given: Mapping[str, Any], config: GenerationConfig | None, default: GenerationConfig) -> Any:
    for value in (given.get(name), getattr(config, name, None), getattr(default, name, None)):
        if value is not None:
            return value
    return None


def check_seed(seed: Any) -> int | None:
    """Raises InvalidArgumentError unless seed is None or one of the engine's."""
    if seed is not None and (type(seed) is not int or not 0 <= seed <= _LARGEST_SEED):
        raise InvalidArgumentError(f"seed is {seed!r}, expected an integer in 0..{_LARGEST_SEED}")
    return seed


def check_supported(given: Mapping[str, Any]) -> None:
    """Raises UnsupportedError naming the first argument that asks for what cannot be run, and its value."""
    for name, (nothing, instead) in _UNSUPPORTED.items():
        value = given.get(name)
        if not any(value is none or (isinstance(value, (str, bool)) and value == none) for none in nothing):
            shown = repr(value) if isinstance(value, (str, bool, int)) else type(value).__name__
            raise UnsupportedError(f"{name} is {shown}, which cannot be run: {instead}")


def check_cache(cache: Any, pool: Any) -> None:
    """Raises UnsupportedError for a cache that is not one of this model."""
    if cache is None:
        return
    if not isinstance(cache, NativeCache):
        raise UnsupportedError(
            f"past_key_values is {type(cache).__name__}, expected what this model returned: keys and values of torch "
            "cannot be moved into the native cache, so give the whole prompt instead"
        )
    if cache.pool is not pool:
        raise InvalidArgumentError("past_key_values belongs to another model, or to this one before it was closed")


def check_settings(
    quantization: Any, dtype: Any, optimize_memory: Any, threads: Any, max_sequences: Any, kv_tokens: Any
) -> str | None:
    """The arguments of ``accelerate`` beside the model. Returns the name of the dtype, None for the model's own."""
    if quantization not in QUANTIZATIONS:
        raise InvalidArgumentError(f"quantization is {quantization!r}, expected one of {QUANTIZATIONS}")
    if not isinstance(optimize_memory, bool):
        raise InvalidArgumentError(f"optimize_memory is {optimize_memory!r}, expected True or False")
    for name, value, most, optional in (
        ("threads", threads, MAX_THREADS, True),
        ("max_sequences", max_sequences, _MOST_SEQUENCES, False),
        ("kv_tokens", kv_tokens, _MOST_TOKENS, True),
    ):
        if not (optional and value is None) and (type(value) is not int or not 1 <= value <= most):
            raise InvalidArgumentError(f"{name} is {value!r}, expected an integer in 1..{most}")
    return _dtype_name(dtype, quantization)


def _dtype_name(dtype: Any, quantization: str) -> str | None:
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else dtype
    if name not in DTYPES:
        raise InvalidArgumentError(f"dtype is {dtype!r}, expected None (the model's) or one of {DTYPES}")
    if quantization != "none":
        raise InvalidArgumentError(f"dtype is {name!r} with quantization={quantization!r}, expected only one of them")
    return str(name)
