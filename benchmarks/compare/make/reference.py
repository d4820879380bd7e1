"""Writes reference.npz: float32 logits [prompts, T, V] of the accuracy prompts, computed from the checkpoint itself.

    venv-torch/bin/python reference.py WORK OUT.npz

One layer is in memory at a time, upcast from the float16 file; the layers are transformers' own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PhiConfig
from transformers.models.phi.modeling_phi import PhiDecoderLayer, PhiRotaryEmbedding

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from layout import CHECKPOINT, Words, models


def reader(checkpoint: Path) -> Callable[[str], Tensor]:
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())["weight_map"]
    files = {name: safe_open(checkpoint / name, "pt") for name in set(index.values())}
    return lambda name: files[index[name]].get_tensor(name).float()


def fill(module: nn.Module, get: Callable[[str], Tensor], prefix: str) -> nn.Module:
    module.load_state_dict({name: get(f"{prefix}.{name}") for name in module.state_dict()}, assign=True)
    return module


@torch.no_grad()
def logits(checkpoint: Path, ids: Tensor) -> Tensor:
    """ids int64 [B, T] → f32 [B, T, V]."""
    config = PhiConfig.from_pretrained(checkpoint)
    config._attn_implementation = "sdpa"
    get = reader(checkpoint)
    x = nn.functional.embedding(ids, get("model.embed_tokens.weight"))
    positions = torch.arange(ids.shape[1])[None]
    rotary = PhiRotaryEmbedding(config)(x, positions)
    for index in range(config.num_hidden_layers):
        with torch.device("meta"):
            layer = PhiDecoderLayer(config, index)
        out = fill(layer.eval(), get, f"model.layers.{index}")(x, position_embeddings=rotary, position_ids=positions)
        x = out[0] if isinstance(out, tuple) else out
    norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
    x = fill(norm, get, "model.final_layernorm")(x)
    return nn.functional.linear(x, get("lm_head.weight"), get("lm_head.bias"))


def main() -> None:
    work = Path(sys.argv[1])
    torch.set_num_threads(1)
    ids = torch.tensor([prompt.ids for prompt in Words(work).accuracy_prompts()])
    out = logits(models(work) / CHECKPOINT, ids).numpy()
    if not np.isfinite(out).all():
        raise SystemExit("the reference logits are not finite")
    with Path(sys.argv[2]).open("wb") as file:
        np.savez(file, ids=ids.numpy(), logits=out)


if __name__ == "__main__":
    main()
