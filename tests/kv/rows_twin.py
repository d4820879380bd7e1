"""The slow twin of ``csrc/kv/rows.h``: what a row of K or V becomes in a cache, in numpy and torch.

Knows the arithmetic of one row [..., D], nothing of pages.
"""

from __future__ import annotations

import numpy as np
import torch

KINDS = ("f32", "f16", "bf16", "int8")


def stored(rows: np.ndarray, kind: str) -> np.ndarray:
    """What reading back gives for float32 ``rows`` [..., D] written to a cache of this kind."""
    if kind == "f32":
        return rows.copy()
    if kind == "f16":
        return rows.astype(np.float16).astype(np.float32)
    if kind == "bf16":
        return torch.from_numpy(rows).to(torch.bfloat16).float().numpy()
    scale = (np.abs(rows).max(axis=-1, keepdims=True) / np.float32(127)).astype(np.float16).astype(np.float32)
    with np.errstate(divide="ignore"):
        inverse = np.where(scale > 0, np.float32(1) / scale, np.float32(0)).astype(np.float32)
    return np.clip(np.rint(rows * inverse), -127, 127).astype(np.float32) * scale
