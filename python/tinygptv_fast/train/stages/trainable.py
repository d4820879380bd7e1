"""Which parameters a stage trains, and in which group of the optimiser each stands."""

from __future__ import annotations

import fnmatch
import re
from typing import Any

import torch
from torch import nn

from ...errors import ConfigError
from ...reference.model import TinyGPTVReference
from .config import StageConfig

# Weights only: the original makes them trainable one by one and leaves their biases frozen (base_model.py:206-228).
_NORM_WEIGHT = re.compile(r"text\.(layers\.\d+\.(norm|attn\.(q_norm|k_norm|post_norm))|final_norm)\.weight")
_LORA = re.compile(r"text\.layers\.\d+\.attn\.(qkv|out)\.lora_[ab]")


def is_trained(name: str, config: StageConfig) -> bool:
    """Whether ``config`` trains parameter ``name`` of a ``TinyGPTVReference``."""
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in config.frozen):
        return False
    return (
        name.startswith("projector.")
        or (config.norms and _NORM_WEIGHT.fullmatch(name) is not None)
        or (config.lora_rank > 0 and _LORA.fullmatch(name) is not None)
        or (config.qformer and name.startswith("qformer."))
    )


def freeze(model: TinyGPTVReference, config: StageConfig) -> dict[str, nn.Parameter]:
    """Freeze everything ``config`` does not train; returns what it does, by name, in the model's order. Raises
    ConfigError for a pattern of ``config.frozen`` that is the name of nothing."""
    names = [name for name, _ in model.named_parameters()]
    for pattern in config.frozen:
        if not fnmatch.filter(names, pattern):
            raise ConfigError(f"stage.frozen has {pattern!r}, which no parameter is called, such as {names[-1]!r}")
    for name, parameter in model.named_parameters():
        parameter.grad = None
        parameter.requires_grad_(is_trained(name, config))
    return trained_of(model)


def trained_of(model: TinyGPTVReference) -> dict[str, nn.Parameter]:
    """The parameters that are not frozen, by name, in the model's order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def decays(name: str, parameter: torch.Tensor) -> bool:
    """Whether weight decay acts on it: not on vectors nor biases (runner_base.py:104-112, whose other words, "ln" and
    "bn", match nothing that is trained)."""
    return parameter.ndim >= 2 and "bias" not in name


def make_optimizer(trained: dict[str, nn.Parameter], config: StageConfig) -> torch.optim.AdamW:
    """AdamW in two groups, with decay and without, each in the model's order."""
    groups: list[dict[str, Any]] = [
        {"params": [p for n, p in trained.items() if decays(n, p)], "weight_decay": config.weight_decay},
        {"params": [p for n, p in trained.items() if not decays(n, p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.init_lr, betas=config.betas)
