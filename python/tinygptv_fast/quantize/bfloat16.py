"""float32 to bfloat16, refusing what bfloat16 cannot hold. Knows nothing of where the tensor goes."""

from __future__ import annotations

import torch

from ..errors import CheckpointError, InvalidArgumentError


def to_bfloat16(tensor: torch.Tensor, *, name: str = "tensor") -> torch.Tensor:
    """bfloat16 copy of a floating ``tensor`` of any shape, rounded to nearest, ties to even.

    Raises ``CheckpointError`` naming ``name`` where a value is NaN or infinite, or would round to infinity
    (above 3.3895e38): weights become smaller files here, never different models.
    """
    if not tensor.is_floating_point():
        raise InvalidArgumentError(f"{name} is {tensor.dtype}, expected a floating dtype")
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"{name} holds NaN or infinity, expected finite weights")
    out = tensor.detach().to(torch.bfloat16)
    if not bool(torch.isfinite(out).all()):
        raise CheckpointError(f"{name} holds values beyond bfloat16's range, expected |w| below 3.3895e38")
    return out
