"""The configuration is strict: what it writes it reads back, and everything else is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tinygptv_fast.config import LoraConfig, ModelConfig, QFormerConfig, QuantizationConfig, VisionConfig
from tinygptv_fast.errors import ConfigError


def full() -> ModelConfig:
    return ModelConfig(vision=VisionConfig(), qformer=QFormerConfig(), quantization=QuantizationConfig("int4"), stage=4)


@pytest.mark.parametrize("config", [full(), ModelConfig()])
def test_round_trip_through_json(config: ModelConfig) -> None:
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_defaults_are_the_released_model() -> None:
    config = full()
    assert config.vision is not None
    assert (config.vision.tokens, config.vision.grid) == (1025, 32)
    assert config.vision.mlp_width == int(1408 * 4.3637)
    assert config.text.rotary_dims == int(0.4 * config.text.head_dim)
    assert LoraConfig().scale == 0.25


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["surprise"], 1, "config has unknown keys"),
        (["text", "surprise"], 1, r"config\.text has unknown keys"),
        (["text"], [], r"config\.text is list"),
        (["text"], None, r"config\.text is NoneType"),
        (["text", "width"], 2559, r"TextConfig\.width is 2559"),
        (["text", "width"], "wide", r"TextConfig\.width is 'wide'"),
        (["text", "layers"], True, r"TextConfig\.layers is True"),
        (["text", "rotary_dims"], 31, r"TextConfig\.rotary_dims is 31"),
        (["text", "rotary_dims"], 82, r"TextConfig\.rotary_dims is 82"),
        (["text", "rotary_dims"], None, r"TextConfig\.rotary_dims is None"),
        (["text", "norm_eps"], 0, r"TextConfig\.norm_eps is 0"),
        (["text", "rope_theta"], float("inf"), r"TextConfig\.rope_theta is inf"),
        (["text", "qk_norm"], 1, r"config\.text\.qk_norm is 1"),
        (["vision", "image_size"], 450, r"VisionConfig\.image_size is 450"),
        (["vision", "heads"], 15, r"VisionConfig\.width is 1408"),
        (["vision"], None, "one of 'vision' and 'qformer'"),
        (["quantization", "text"], "int3", r"quantization\.text is 'int3'"),
        (["quantization", "group_size"], 48, r"quantization\.group_size is 48"),
        (["dtype"], "float64", r"config\.dtype is 'float64'"),
        (["model_type"], "llama", r"config\.model_type is 'llama'"),
        (["format_version"], 99, r"config\.format_version is 99"),
        (["eos_token_id"], 51200, r"config\.eos_token_id is 51200"),
        (["bos_token_id"], -1, r"config\.bos_token_id is -1"),
        (["stage"], 9, r"config\.stage is 9"),
        (["architectures"], 5, r"config\.architectures is 5"),
    ],
)
def test_bad_values_are_named(path: list[str], value: Any, message: str) -> None:
    data = full().to_dict()
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(data)


@pytest.mark.parametrize(
    ("settings", "message"), [({"rank": 0}, "rank"), ({"alpha": 0}, "alpha"), ({"dropout": 1}, "dropout")]
)
def test_lora_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoraConfig(**settings)
