"""``TinyGPTVConfig``: the configuration of a model directory as an object of transformers."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig

from ..config import ModelConfig, QFormerConfig, QuantizationConfig, TextConfig, VisionConfig
from ..errors import ConfigError, InvalidArgumentError
from .directories import find_directory

_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
# What transformers writes into a dictionary on its way, or into a file, and our format has not.
_NOT_OURS = ("transformers_version", "attn_implementation", "torch_dtype", "use_cache")
_OF_AUTO = ("_from_auto", "_from_pipeline", "name_or_path")


class TinyGPTVConfig(PretrainedConfig):
    """Over a ``ModelConfig``, whose json it reads and writes: ``config.json`` of a model directory is one of ours and
    one of transformers at once.

    model: a ModelConfig or its dict; None is the full-size model of text alone. The parts (``text``, ``vision``,
    ``qformer``, ``quantization``) cannot be changed, because weights come with them; ``bos_token_id``, ``eos_token_id``
    and ``pad_token_id`` can. Raises ConfigError for unknown keys and wrong values.
    """

    model_type = "tinygptv"

    def __init__(self, model: ModelConfig | Mapping[str, Any] | None = None, **fields: Any) -> None:
        if model is not None and not isinstance(model, (ModelConfig, Mapping)):
            raise InvalidArgumentError(f"model is {type(model).__name__}, expected a ModelConfig or its dict")
        if isinstance(model, ModelConfig):
            read = dataclasses.replace(model, **fields) if fields else model
        else:
            read = ModelConfig.from_dict({**(model or {}), **fields})
        super().__init__(architectures=list(read.architectures))
        self._model = read
        for name in _TOKEN_IDS:
            setattr(self, name, getattr(read, name))

    # --- ours ------------------------------------------------------------------------------------------------------
    @property
    def model(self) -> ModelConfig:
        """The ModelConfig, with the token ids as they are now."""
        return dataclasses.replace(self._model, **{name: getattr(self, name) for name in _TOKEN_IDS})

    @property
    def text(self) -> TextConfig:
        """The language model."""
        return self._model.text

    @property
    def vision(self) -> VisionConfig | None:
        """The vision tower; None for a model of text."""
        return self._model.vision

    @property
    def qformer(self) -> QFormerConfig | None:
        """The Q-Former; None for a model of text."""
        return self._model.qformer

    @property
    def quantization(self) -> QuantizationConfig:
        """How weights are stored."""
        return self._model.quantization

    # --- what others ask of a language model -----------------------------------------------------------------------
    @property
    def vocab_size(self) -> int:
        """V."""
        return self.text.vocab_size

    @property
    def hidden_size(self) -> int:
        """C."""
        return self.text.width

    @property
    def num_hidden_layers(self) -> int:
        """L."""
        return self.text.layers

    @property
    def num_attention_heads(self) -> int:
        """H."""
        return self.text.heads

    @property
    def max_position_embeddings(self) -> int:
        """Positions of prompt and answer together."""
        return self.text.max_positions

    # --- json ------------------------------------------------------------------------------------------------------
    def to_dict(self) -> dict[str, Any]:
        """The object of ``config.json``; ``from_dict`` reads it back."""
        return self.model.to_dict()

    def to_diff_dict(self) -> dict[str, Any]:
        """``to_dict``: files of ours are whole."""
        return self.to_dict()

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """The strict inverse of ``to_dict``. kwargs that are no token ids are for the model: they are given back with
        ``return_unused_kwargs=True``, else dropped, as everywhere in transformers."""
        unused = bool(kwargs.pop("return_unused_kwargs", False))
        kept = {name: value for name, value in kwargs.items() if name not in _OF_AUTO}
        family = config_dict.get("model_type")
        if family != cls.model_type:
            raise ConfigError(f"config.model_type is {family!r}, expected {cls.model_type!r}")
        known = {k: v for k, v in config_dict.items() if k not in _NOT_OURS and not k.startswith("_")}
        ids = {name: kept.pop(name) for name in _TOKEN_IDS if name in kept}
        config = cls({**known, **ids})
        config._name_or_path = str(config_dict.get("_name_or_path", kwargs.get("name_or_path", "")))
        return (config, kept) if unused else config

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Of a model directory, "demo" or a hub id."""
        name = find_directory(pretrained_model_name_or_path)
        return super().from_pretrained(name, *args, **{"name_or_path": name, **kwargs})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TinyGPTVConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # token ids can be changed

    def __deepcopy__(self, memo: dict[int, Any]) -> TinyGPTVConfig:
        new = type(self)(self.model)
        for name, value in vars(self).items():
            if name not in vars(new):
                setattr(new, name, copy.deepcopy(value, memo))
        new._name_or_path = self._name_or_path
        return new
