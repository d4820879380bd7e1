"""Reads the golden cases: the original's tiny checkpoints into reference modules, LoRA and projections un-folded.

Written apart from the package's own converter on purpose, so that one checks the other.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

import tinygptv_fast as tgv
from tinygptv_fast.config import LoraConfig, ModelConfig, QFormerConfig, TextConfig, VisionConfig
from tinygptv_fast.processing.tokenizer import Tokenizer
from tinygptv_fast.reference import TinyGPTVReference, interpolate_position_embedding

GOLDEN = Path(__file__).parent / "golden"
CASES = ("A_stage1", "A_stage3", "B_stage4")
ATOL = 2e-4
GENERATIONS = [
    "gen_single",
    "gen_batch2",
    "gen_single1",
    "gen_reppen",
    "gen_beam3",
    "gen_beam3_batch2",
    "gen_eos_batch2",
    "gen_eos_beam3",
    "gen_eos_beam3_lp2",
    "gen_eos_beam3_lpm1",
    "gen_eos_beam3_batch2",
    "gen_minlen",
]


@dataclass(frozen=True)
class Case:
    """One golden case: its json, its arrays (shared ones filled in), the model and tokenizer that must reproduce it."""

    name: str
    info: dict[str, Any]
    arrays: dict[str, np.ndarray]
    model: TinyGPTVReference
    tokenizer: Tokenizer

    def array(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def segments(self, prompt: str) -> list[list[int]]:
        return [self.tokenizer.encode(part) for part in prompt.split("<ImageHere>")]


def sizes() -> dict[str, Any]:
    return json.loads((GOLDEN / "sizes.json").read_text())


def config_for(image_size: int) -> ModelConfig:
    s = sizes()
    vit, qf, phi = s["vit"], s["qf"], s["phi"]
    head_dim = phi["hidden_size"] // phi["num_attention_heads"]
    return ModelConfig(
        text=TextConfig(
            width=phi["hidden_size"],
            layers=phi["num_hidden_layers"],
            heads=phi["num_attention_heads"],
            head_dim=head_dim,
            rotary_dims=int(phi["partial_rotary_factor"] * head_dim),
            mlp_width=phi["intermediate_size"],
            vocab_size=phi["vocab_size"],
            max_positions=phi["max_position_embeddings"],
        ),
        vision=VisionConfig(
            image_size=image_size,
            patch_size=vit["patch_size"],
            width=vit["embed_dim"],
            layers=vit["depth"],
            heads=vit["num_heads"],
            mlp_width=int(vit["embed_dim"] * vit["mlp_ratio"]),
        ),
        qformer=QFormerConfig(
            queries=s["num_query"],
            width=qf["hidden_size"],
            layers=qf["num_hidden_layers"],
            heads=qf["num_attention_heads"],
            mlp_width=qf["intermediate_size"],
            cross_attention_every=qf["cross_attention_freq"],
        ),
    )


def _pickle(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)


def vision_state(config: VisionConfig) -> dict[str, Tensor]:
    raw = {k: v.float() for k, v in _pickle(GOLDEN / "eva_vit_g.pth").items()}
    out = {
        "vision.cls_token": raw["cls_token"][0, 0],
        "vision.pos_embed": interpolate_position_embedding(raw["pos_embed"][0], config.tokens),
        "vision.patch_embed.weight": raw["patch_embed.proj.weight"],
        "vision.patch_embed.bias": raw["patch_embed.proj.bias"],
    }
    for n in range(config.layers):
        src, dst = f"blocks.{n}.", f"vision.layers.{n}."
        q, v = raw[src + "attn.q_bias"], raw[src + "attn.v_bias"]
        out[dst + "attn.qkv.weight"] = raw[src + "attn.qkv.weight"]
        out[dst + "attn.qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])
        for kind in ("weight", "bias"):
            out[f"{dst}attn.out.{kind}"] = raw[f"{src}attn.proj.{kind}"]
            for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                out[f"{dst}{part}.{kind}"] = raw[f"{src}{part}.{kind}"]
    return out


def qformer_state(config: QFormerConfig) -> dict[str, Tensor]:
    raw = _pickle(GOLDEN / "blip2_pretrained_flant5xxl.pth")["model"]
    out = {"qformer.query_tokens": raw["query_tokens"][0]}
    rename = {
        "attention.self.query": "self_attn.query",
        "attention.self.key": "self_attn.key",
        "attention.self.value": "self_attn.value",
        "attention.output.dense": "self_attn.out",
        "attention.output.LayerNorm": "self_attn.norm",
        "intermediate_query.dense": "mlp.fc1",
        "output_query.dense": "mlp.fc2",
        "output_query.LayerNorm": "mlp.norm",
    }
    cross = {"cross" + a: b.replace("self_attn", "cross_attn") for a, b in rename.items() if a.startswith("attention")}
    for kind in ("weight", "bias"):
        out[f"ln_vision.{kind}"] = raw[f"ln_vision.{kind}"]
        out[f"qformer.norm.{kind}"] = raw[f"Qformer.bert.embeddings.LayerNorm.{kind}"]
        for n in range(config.layers):
            names = rename | (cross if n % config.cross_attention_every == 0 else {})
            for src, dst in names.items():
                out[f"qformer.layers.{n}.{dst}.{kind}"] = raw[f"Qformer.bert.encoder.layer.{n}.{src}.{kind}"]
    return out


_TEXT_NAMES = {
    "query_key_value": "qkv",
    "dense": "out",
    "q_layernorm": "q_norm",
    "k_layernorm": "k_norm",
}


def text_name(original: str) -> str:
    """Canonical name of a Phi tensor, LoRA factors included."""
    name = original
    for prefix in ("llama_model.base_model.model.", "llama_model."):
        name = name.removeprefix(prefix)
    name = name.replace(".lora_A.default.weight", ".lora_a").replace(".lora_B.default.weight", ".lora_b")
    name = name.replace(".lora_A.weight", ".lora_a").replace(".lora_B.weight", ".lora_b")
    if name.startswith("lm_head"):
        return name.replace("lm_head", "text.head")
    name = name.replace("model.", "text.", 1).replace("embed_tokens", "embed").replace("final_layernorm", "final_norm")
    for src, dst in _TEXT_NAMES.items():
        name = name.replace(f"self_attn.{src}", f"attn.{dst}")
    return name.replace("post_layernorm", "attn.post_norm").replace("input_layernorm", "norm")


def text_state(phi_dir: str, stage: str) -> dict[str, Tensor]:
    folder = GOLDEN / phi_dir
    single = folder / "model.safetensors"
    raw = load_file(single) if single.exists() else _pickle(folder / "pytorch_model.bin")
    out = {text_name(k): v.float() for k, v in raw.items()}
    for key, value in _pickle(GOLDEN / stage)["model"].items():
        if key.startswith("Qformer."):
            continue
        for number, source in (("1", "llama_proj."), ("2", "llama_proj2.")):
            if key.startswith(source):
                out[f"projector.proj{number}." + key.removeprefix(source)] = value
                break
        else:
            out[text_name(key)] = value
    return out


@cache
def load_case(name: str) -> Case:
    info = json.loads((GOLDEN / "golden" / f"{name}.json").read_text())
    arrays = dict(np.load(GOLDEN / "golden" / f"{name}.npz"))
    shared = info.get("same_as_A_stage1", [])
    base = np.load(GOLDEN / "golden" / "A_stage1.npz")
    arrays |= {key: base[key] for key in shared}
    model, tokenizer = build_model(info["build"])
    return Case(name, info, arrays, model, tokenizer)


def build_model(build: dict[str, Any]) -> tuple[TinyGPTVReference, Tokenizer]:
    config = config_for(build["image_size"])
    lora = LoraConfig(rank=build["lora_r"], alpha=build["lora_alpha"]) if build["lora_r"] else None
    model = TinyGPTVReference(config, lora=lora, projector_hidden=sizes()["proj"]).eval()
    assert config.vision is not None and config.qformer is not None
    state = vision_state(config.vision) | qformer_state(config.qformer) | text_state(build["phi_dir"], build["ckpt"])
    for n in range(config.text.layers):  # absent from phi_base_bin and from every stage file: zero, as in the original
        for which in ("q_norm", "k_norm"):
            state.setdefault(f"text.layers.{n}.attn.{which}.bias", torch.zeros(config.text.head_dim))
    model.load_state_dict(state, strict=True)
    return model, Tokenizer.from_file(GOLDEN / build["phi_dir"] / "tokenizer.json")


def convert_case(name: str, out: Path, **settings: object) -> Path:
    """The files of golden case ``name`` as a directory at ``out``; every number kept unless ``settings`` say more."""
    build = load_case(name).info["build"]
    tgv.convert(
        phi=GOLDEN / build["phi_dir"],
        vision=GOLDEN / "eva_vit_g.pth",
        qformer=GOLDEN / "blip2_pretrained_flant5xxl.pth",
        checkpoint=GOLDEN / build["ckpt"],
        out=out,
        image_size=build["image_size"],
        architecture=GOLDEN / "sizes.json",
        **{"quantization": "none", "dtype": "float32", **settings},  # type: ignore[arg-type]
    )
    return out
