"""From a directory's ``generation_config.json`` to transformers' ``GenerationConfig``, and lengths that fit the model.

Knows settings, not how they are computed.
"""

from __future__ import annotations

import copy
from typing import Any

from transformers import GenerationConfig

from ..checkpoint.directory import TEMPLATE_KEY, ModelDirectory
from ..errors import InvalidArgumentError, PromptError, UnsupportedError
from ..generate.request import DEFAULT_MAX_NEW_TOKENS, Request, eos_ids, stop_strings

_NEUTRAL = {"presence_penalty": 0.0, "frequency_penalty": 0.0}
# What ``TinyGPTV`` reads of the file beside the ids; transformers' own defaults differ (top_k is 50).
_SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "num_beams")
_REST = ("length_penalty", "num_return_sequences")


def generation_config_of(directory: ModelDirectory) -> GenerationConfig:
    """What ``TinyGPTV.generate`` does unless it is told otherwise. Raises UnsupportedError for a setting of the file
    that transformers has no name for."""
    given, template, config = directory.generation_config, directory.template, directory.config
    for name, neutral in _NEUTRAL.items():
        if given.get(name, neutral) not in (None, neutral):
            raise UnsupportedError(
                f"generation_config.json sets {name} to {given[name]!r}, which transformers has not: use TinyGPTV"
            )
    fields: dict[str, Any] = {name: given.get(name) for name in (*_SAMPLING, *_REST) if given.get(name) is not None}
    least = int(given.get("min_length") or 0) - (config.bos_token_id is not None)  # ours counts the BOS never fed
    if least > 0:
        fields["min_new_tokens"] = least
    request = Request(prompt="")
    ids = eos_ids(request, template, config.eos_token_id, given, config.text.vocab_size)
    made = GenerationConfig(
        **{"top_k": None, **fields},
        max_new_tokens=given.get("max_new_tokens") or DEFAULT_MAX_NEW_TOKENS,
        bos_token_id=config.bos_token_id,
        eos_token_id=list(ids) or None,
        pad_token_id=0 if config.pad_token_id is None else config.pad_token_id,
        stop_strings=stop_strings(request, template, given) or None,
    )
    assert TEMPLATE_KEY not in vars(made)
    return made


def complete(
    config: GenerationConfig | None,
    kwargs: dict[str, Any],
    default: GenerationConfig,
    *,
    columns: int,
    longest: int,
    positions: int,
) -> tuple[GenerationConfig | None, dict[str, Any]]:
    """Configuration and arguments, without the top-k that transformers adds to sampling, and with every limit as
    max_new_tokens, no more than the ``positions`` of the model leave to the ``longest`` row: as
    with ``TinyGPTV.generate`` an answer ends with the context.

    columns: of the prompt, which max_length and min_length count as everywhere in transformers. Raises PromptError
    without room, InvalidArgumentError for a max_length that the prompt fills."""
    room = positions - longest
    if room < 1:
        raise PromptError(f"the prompt is {longest} tokens, expected < {positions}")
    kwargs = dict(kwargs)
    least = kwargs.pop("min_length", None)
    if least is not None:
        kwargs["min_new_tokens"] = max(kwargs.get("min_new_tokens") or 0, least - columns)
    new = _asked(kwargs.pop("max_new_tokens", None), kwargs.pop("max_length", None), columns)
    if new is None and config is not None:
        total = config.max_length if config.max_length != GenerationConfig().max_length else None
        new = _asked(config.max_new_tokens, total, columns)
    new = min(new or default.max_new_tokens or DEFAULT_MAX_NEW_TOKENS, room)
    if kwargs.get("min_new_tokens") is not None:
        kwargs["min_new_tokens"] = min(kwargs["min_new_tokens"], new)
    asked = (kwargs.get("do_sample"), getattr(config, "do_sample", None), default.do_sample)
    sampled = next((one for one in asked if one is not None), False)
    if config is None:
        if sampled and default.top_k is None:
            kwargs.setdefault("top_k", 0)
        return None, {**kwargs, "max_new_tokens": new}
    config = copy.deepcopy(config)
    if sampled and config.top_k is None and kwargs.get("top_k") is None:
        config.top_k = 0
    config.max_new_tokens, config.max_length = new, GenerationConfig().max_length
    return config, kwargs


def _asked(new: int | None, total: int | None, columns: int) -> int | None:
    if new is not None or total is None:
        return new
    if total <= columns:
        raise InvalidArgumentError(f"max_length is {total}, expected more than the prompt's {columns} columns")
    return total - columns
