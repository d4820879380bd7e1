"""Drawn pictures as the vision tower's input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..processing.image import CLIP_MEAN, CLIP_STD

_MEAN = torch.tensor(CLIP_MEAN)[:, None, None]
_STD = torch.tensor(CLIP_STD)[:, None, None]


def normalise(pictures: Sequence[np.ndarray]) -> Tensor:
    """uint8 [S, S, 3] each → f32 [B, 3, S, S], (x/255 - mean)/std, as ``processing.image`` does."""
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
    return (stacked.contiguous() / 255 - _MEAN) / _STD
