"""Where phase "finish" begins: int4 levels of the language model that make up for each other's errors.

Layer by layer, each matrix is rounded by ``quantize.gptq`` for the inputs that it has behind the rounded ones before
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...checkpoint.names import storage_kind
from ...config import ModelConfig
from ...quantize.gptq import quantize_int4_gptq
from ...quantize.int4 import dequantize_int4
from ...reference.loss import IGNORE
from ...reference.phi import PhiBackbone, causal_mask, rotary_tables
from .rows import Rows

#: Those of one line have their inputs at the same time.
_MATRICES = (("attn.qkv", "mlp.fc1"), ("attn.out", "mlp.fc2"))
_ANSWER = 4.0  # a token before one of the answer counts as many times as another that is read


@dataclass(frozen=True)
class Sample:
    """Rows to see what matrices are multiplied with: embeds f32 [B, T, C]; weight f32 [B, T], 0 where nobody reads;
    answer bool [B, T]: a token of the answer follows."""

    embeds: Tensor
    weight: Tensor
    answer: Tensor


def sample_of(embeds: Tensor, rows: Rows) -> Sample:
    """``embeds`` [B, T, C] of ``rows`` with what counts of them: all up to the last answer."""
    answer = rows.labels != IGNORE
    read = answer.flip(1).cumsum(1).flip(1) > 0
    return Sample(embeds.float(), torch.where(answer, _ANSWER, 1.0) * read, answer)


def matrices_in(text: PhiBackbone) -> int:
    """How many ``choose_levels`` goes through."""
    return len(text.layers) * sum(map(len, _MATRICES)) + 1


@torch.no_grad()
def choose_levels(
    text: PhiBackbone, samples: Sequence[Sample], config: ModelConfig, told: Callable[[int], None] = lambda done: None
) -> None:
    """Put rounded weights in place of every matrix of ``text`` that ``config`` stores in int4.

    ``told`` hears how many matrices are done. The weights that are left are found again when the model is converted.
    """
    quantization, done = config.quantization, 0

    def put(module: nn.Linear, name: str, gram: Tensor) -> None:
        nonlocal done
        if storage_kind(name, config) == "int4":
            weight = module.weight.float().cpu().contiguous()
            stored = quantize_int4_gptq(weight, gram.cpu(), quantization.group_size, quantization.symmetric, name=name)
            module.weight.copy_(dequantize_int4(stored))
        done += 1
        told(done)

    hidden = [sample.embeds for sample in samples]
    for index, layer in enumerate(text.layers):
        for names in _MATRICES:
            modules = [_linear(layer, name) for name in names]
            grams = _grams(modules, _through(text, layer, hidden), [sample.weight for sample in samples])
            for module, name, gram in zip(modules, names, grams, strict=True):
                put(module, f"text.layers.{index}.{name}.weight", gram)
        hidden = list(_through(text, layer, hidden))
    last = (text.head(text.final_norm(x)) for x in hidden)
    put(text.head, "text.head.weight", *_grams([text.head], last, [s.answer.float() for s in samples]))


def _linear(layer: nn.Module, name: str) -> nn.Linear:
    module = layer.get_submodule(name)
    assert isinstance(module, nn.Linear)
    return module


def _through(text: PhiBackbone, layer: nn.Module, hidden: Iterable[Tensor]) -> Iterable[Tensor]:
    """What ``layer`` makes of each of ``hidden`` [B, T, C], one after the other."""
    for x in hidden:
        T = x.shape[1]
        rotary = rotary_tables(torch.arange(T, device=x.device), text.config.rotary_dims, text.config.rope_theta)
        yield layer(x, rotary, causal_mask(None, T, T, x.device), None, 0)


class _Watch:
    """What ``module`` is given: ``gram`` f64 [K, K], Σ weight · x xᵀ over the rows x of its inputs."""

    def __init__(self, module: nn.Linear) -> None:
        self.gram = torch.zeros(module.in_features, module.in_features, dtype=torch.float64)
        self.weight = torch.empty(0)
        self.hook = module.register_forward_pre_hook(self._see)

    def _see(self, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        x = given[0].flatten(0, 1).float() * self.weight.flatten()[:, None].sqrt()
        self.gram += (x.T @ x).double().cpu()


def _grams(modules: Sequence[nn.Linear], outputs: Iterable[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """Of each of ``modules`` while ``outputs`` are taken, one for each of ``weights`` [B, T]."""
    watches = [_Watch(module) for module in modules]
    try:
        taken = iter(outputs)
        for weight in weights:
            for watch in watches:
                watch.weight = weight
            next(taken)
    finally:
        for watch in watches:
            watch.hook.remove()
    return [watch.gram for watch in watches]
