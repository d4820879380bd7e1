"""torch with transformers' Phi. Options: group: None for bfloat16 matrices, else torch's int4 product in such groups.

int4 is ``torch.ops.aten._weight_int4pack_mm_for_cpu``, on bfloat16 activations, from the file of make/torch_int4.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import DynamicCache, PhiConfig, PhiForCausalLM
from transformers.models.phi.modeling_phi import PhiRotaryEmbedding

from engines.base import Run, Timer
from layout import CHECKPOINT, Prompt

_LEVELS = 15


def pack_int4(weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """weight [N, K] → torch's packed levels and (scale, zero) bf16 [K/group, N, 2]: plain asymmetric rounding."""
    grouped = weight.float().view(weight.shape[0], -1, group)
    low, high = grouped.amin(-1), grouped.amax(-1)
    scale = ((high - low) / _LEVELS).clamp_min(1e-6)
    levels = ((grouped - low[..., None]) / scale[..., None]).round().clamp_(0, _LEVELS).to(torch.int32)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels.view(weight.shape), 1)
    pairs = torch.stack([scale, low + scale * 8], -1).transpose(0, 1).contiguous().to(torch.bfloat16)
    return packed, pairs


class Int4Linear(nn.Module):
    """Empty until the state is loaded."""

    def __init__(self, linear: nn.Linear, group: int) -> None:
        super().__init__()
        self.rows, self.group = linear.out_features, group
        self.register_buffer("weight_packed", torch.empty(0))
        self.register_buffer("weight_scales", torch.empty(0))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).contiguous()
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(flat, self.weight_packed, self.group, self.weight_scales)
        return (y + self.bias).view(*x.shape[:-1], self.rows)


def _replace_linears(module: nn.Module, group: int) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            setattr(module, name, Int4Linear(child, group))
        else:
            _replace_linears(child, group)


def _load_int4(path: Path, group: int) -> PhiForCausalLM:
    config = PhiConfig.from_pretrained(path.parent / CHECKPOINT)
    with torch.device("meta"):
        model = PhiForCausalLM(config)
        _replace_linears(model, group)
    state = torch.load(path, weights_only=True)
    for name, module in model.named_modules():
        if isinstance(module, Int4Linear):
            module.weight_packed = state.pop(f"{name}.weight_packed")
            module.weight_scales = state.pop(f"{name}.weight_scales")
    model.load_state_dict(state, strict=False, assign=True)
    model.model.rotary_emb = PhiRotaryEmbedding(config)
    left = [name for name, values in model.state_dict().items() if values.is_meta]
    if left:
        raise SystemExit(f"{path} lacks {left[:5]}")
    return model


class Engine:
    """Attention is torch's scaled_dot_product_attention, keys and values bfloat16."""

    def __init__(self, path: Path, threads: int, group: int | None = None, **_: Any) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        if group is None:
            self._model = PhiForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
        else:
            self._model = _load_int4(path, group)
        self._model.eval()

    def generate(self, prompts: list[Prompt], new_tokens: int) -> Run:
        cache = DynamicCache(config=self._model.config)
        ids = torch.tensor([p.ids for p in prompts])
        with Timer() as prefill:
            tokens = self._step(ids, cache, 0)
        run = Run(prefill.seconds)
        for step in range(new_tokens - 1):
            with Timer() as timer:
                tokens = self._step(tokens, cache, ids.shape[1] + step)
            run.steps.append(timer.seconds)
        return run

    def logits(self, prompt: Prompt) -> np.ndarray:
        return self._model(torch.tensor([prompt.ids])).logits[0].float().numpy()

    def about(self) -> dict[str, Any]:
        return {"version": torch.__version__, "transformers": transformers.__version__, "kv": "bf16"}

    def _step(self, ids: Tensor, cache: DynamicCache, start: int) -> Tensor:
        positions = torch.arange(start, start + ids.shape[1])[None].expand(ids.shape[0], -1)
        out = self._model(
            input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1, position_ids=positions
        )
        return out.logits[:, -1].argmax(-1, keepdim=True)
