"""``accelerate(m).generate`` equals ``m.generate`` token for token, scores within 1e-4, over a grid of settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import PhiForCausalLM

import tinygptv_fast as tgv
from hf.support import Setting, call, demo_phi, phi_config, random_phi, score_difference, sequences_of, settings
from tinygptv_fast.hf.model import AcceleratedPhi

SETTINGS = settings()
# What each variant of the architecture is asked: all paddings, both routes, scores.
FEW = [s for s in SETTINGS if s.name in ("greedy-left", "greedy-embeds-holes", "beams-scores-ids", "processor-left")]
# Rotary positions are described differently by the two majors.
_OLD = hasattr(phi_config(), "rope_theta")
_FULL_ROTARY: dict[str, Any] = (
    {"rope_theta": 500.0, "partial_rotary_factor": 1.0}
    if _OLD
    else {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0}}
)
VARIANTS: dict[str, dict[str, Any]] = {
    "grouped queries": {"num_key_value_heads": 2},
    "one head of keys": {"num_key_value_heads": 1},
    "q and k normed": {"qk_layernorm": True},
    "tied": {"tie_word_embeddings": True},
    "D=80": {"hidden_size": 160, "num_attention_heads": 2, "partial_rotary_factor": 0.4, "std": 0.2},
    "rotary": _FULL_ROTARY,
    "activation": {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-3},
}


def compare(setting: Setting, theirs: PhiForCausalLM, ours: AcceleratedPhi) -> None:
    expected, actual = call(theirs, setting, theirs), call(ours, setting, theirs)
    assert torch.equal(sequences_of(actual), sequences_of(expected)), ours.last_route
    assert type(actual) is type(expected)
    assert score_difference(actual, expected) < 1e-4
    assert ours.last_route.startswith(setting.route)


def test_the_grid_is_large() -> None:
    assert len(SETTINGS) >= 60 and len({s.name for s in SETTINGS}) == len(SETTINGS)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
def test_every_setting(setting: Setting, phi: PhiForCausalLM, accelerated: AcceleratedPhi) -> None:
    compare(setting, phi, accelerated)


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.route == "native"][::3], ids=lambda s: s.name)
def test_the_loop_gives_what_the_engine_gives(
    setting: Setting, phi: PhiForCausalLM, accelerated: AcceleratedPhi
) -> None:
    accelerated.native = False
    actual = sequences_of(call(accelerated, setting, phi))
    assert torch.equal(actual, sequences_of(call(phi, setting, phi)))
    assert accelerated.last_route == "loop: native is False"


@pytest.mark.parametrize("name", VARIANTS)
def test_every_architecture(name: str) -> None:
    theirs = random_phi(seed=5, **VARIANTS[name])
    with tgv.accelerate(theirs, kv_tokens=2048, threads=1) as ours:
        for setting in FEW:
            compare(setting, theirs, ours)


@pytest.fixture(scope="module")
def demo() -> Iterator[tuple[PhiForCausalLM, AcceleratedPhi]]:
    theirs = demo_phi()
    with tgv.accelerate(theirs, kv_tokens=4096, threads=1) as ours:
        yield theirs, ours


# Every other one: its vocabulary makes beams slow, and what decides is the same.
@pytest.mark.parametrize("setting", SETTINGS[::2], ids=lambda s: s.name)
def test_the_backbone_of_the_demo(setting: Setting, demo: tuple[PhiForCausalLM, AcceleratedPhi]) -> None:
    assert demo[1].text.qk_norm and demo[1].text.post_attention_norm
    compare(setting, *demo)
