"""What training computes products in: bfloat16 where the device has instructions for it, float32 elsewhere.

Without them torch falls back to a plain loop: on a CPU with AVX2 a product in bfloat16 took 100 times as long as one in
float32.
"""

from __future__ import annotations

import torch

from .. import _native
from ..vision.arithmetic import has_fast_bfloat16
from .stages.config import AUTO, StageConfig


def best_precision(device: torch.device) -> str:
    """ "bfloat16" or "float32", whichever is faster on ``device``."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = has_fast_bfloat16(_native.cpu_features())
    return "bfloat16" if fast else "float32"


def autocast(device: torch.device) -> torch.autocast:
    """Products in ``best_precision(device)``; weights stay as they are."""
    return torch.autocast(device.type, torch.bfloat16, enabled=best_precision(device) == "bfloat16")


def precision_of(config: StageConfig, device: torch.device) -> str:
    """What a stage computes in on ``device``: what its config names, or for "auto" the best one. Matrices that are held
    in bfloat16 need a product in it."""
    if config.precision != AUTO:
        return config.precision
    return "bfloat16" if config.frozen_dtype == "bfloat16" else best_precision(device)
