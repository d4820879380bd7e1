"""Stock Phi-1/1.5/2: our backbone with both norm flags off equals transformers' PhiForCausalLM on random weights.

transformers stores q, k, v apart; the fused form interleaves them per head.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import PhiConfig, PhiForCausalLM

from tinygptv_fast.config import TextConfig
from tinygptv_fast.reference import GenerationOptions, PhiBackbone, generate

SIZES = [
    {"width": 64, "heads": 4, "layers": 3, "mlp": 200, "rotary": 0.5},
    {"width": 160, "heads": 2, "layers": 2, "mlp": 300, "rotary": 0.4},  # Phi-2's head: D=80, R=32
]


def hugging_face(size: dict) -> PhiForCausalLM:
    torch.manual_seed(7)
    config = PhiConfig(
        vocab_size=120,
        hidden_size=size["width"],
        intermediate_size=size["mlp"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        max_position_embeddings=64,
        partial_rotary_factor=size["rotary"],
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
    )
    model = PhiForCausalLM(config).eval()
    for parameter in model.parameters():  # fresh weights are too tame to tell eps and layouts apart
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def fused(state: dict[str, Tensor], layer: int, kind: str, heads: int) -> Tensor:
    parts = [state[f"model.layers.{layer}.self_attn.{name}_proj.{kind}"] for name in "qkv"]
    return torch.stack([part.unflatten(0, (heads, -1)) for part in parts], dim=1).flatten(0, 2)


def ours(model: PhiForCausalLM, size: dict) -> PhiBackbone:
    head_dim = size["width"] // size["heads"]
    config = TextConfig(
        width=size["width"],
        layers=size["layers"],
        heads=size["heads"],
        head_dim=head_dim,
        rotary_dims=int(size["rotary"] * head_dim),
        mlp_width=size["mlp"],
        vocab_size=120,
        max_positions=64,
        qk_norm=False,
        post_attention_norm=False,
    )
    state = model.state_dict()
    out = {"embed.weight": state["model.embed_tokens.weight"]}
    for kind in ("weight", "bias"):
        out[f"head.{kind}"] = state[f"lm_head.{kind}"]
        out[f"final_norm.{kind}"] = state[f"model.final_layernorm.{kind}"]
        for n in range(size["layers"]):
            src, dst = f"model.layers.{n}.", f"layers.{n}."
            out[f"{dst}attn.qkv.{kind}"] = fused(state, n, kind, size["heads"])
            out[f"{dst}attn.out.{kind}"] = state[f"{src}self_attn.dense.{kind}"]
            out[f"{dst}norm.{kind}"] = state[f"{src}input_layernorm.{kind}"]
            out[f"{dst}mlp.fc1.{kind}"] = state[f"{src}mlp.fc1.{kind}"]
            out[f"{dst}mlp.fc2.{kind}"] = state[f"{src}mlp.fc2.{kind}"]
    backbone = PhiBackbone(config).eval()
    backbone.load_state_dict(out, strict=True)
    return backbone


@pytest.fixture(params=range(len(SIZES)), ids=["D16", "D80"])
def pair(request: pytest.FixtureRequest) -> tuple[PhiForCausalLM, PhiBackbone]:
    size = SIZES[request.param]
    theirs = hugging_face(size)
    return theirs, ours(theirs, size)


@torch.no_grad()
def test_logits_equal(pair: tuple[PhiForCausalLM, PhiBackbone]) -> None:
    theirs, backbone = pair
    ids = torch.randint(0, 120, (3, 11), generator=torch.Generator().manual_seed(1))
    golden = theirs(ids).logits
    actual = backbone.logits(backbone(backbone.embed(ids)))
    # fp32 noise through `layers` layers of width ~100: 1e-5 of the largest logit is ~100 times that noise
    torch.testing.assert_close(actual, golden, rtol=0, atol=1e-5 * float(golden.abs().max()))


@torch.no_grad()
def test_left_padded_greedy_equal(pair: tuple[PhiForCausalLM, PhiBackbone]) -> None:
    theirs, backbone = pair
    ids = torch.randint(0, 120, (2, 9), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    golden = theirs.generate(
        ids, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=None
    )
    result = generate(backbone, backbone.embed(ids), mask, GenerationOptions(max_new_tokens=12))
    assert result.ids == golden[:, 9:].tolist()


@torch.no_grad()
def test_beams_equal_with_current_transformers(pair: tuple[PhiForCausalLM, PhiBackbone]) -> None:
    theirs, backbone = pair
    ids = torch.randint(0, 120, (1, 7), generator=torch.Generator().manual_seed(3))
    golden = theirs.generate(
        ids, max_new_tokens=8, num_beams=3, do_sample=False, pad_token_id=0, eos_token_id=None, length_penalty=0.5
    )
    options = GenerationOptions(max_new_tokens=8, num_beams=3, length_penalty=0.5)
    assert generate(backbone, backbone.embed(ids), None, options).ids == [golden[0, 7:].tolist()]
