"""Two 4-bit values per byte along the last axis: the low nibble is the even position.

Knows nothing of scales or groups; ``int4`` says what the nibbles mean.
"""

from __future__ import annotations

import torch

from ..errors import InvalidArgumentError


def pack_nibbles(values: torch.Tensor, pad: int | torch.Tensor = 0) -> torch.Tensor:
    """Pack ``values`` uint8 [N, M] (each 0..15) to uint8 [N, ceil(M/2)]; byte j = values[2j] | values[2j+1] << 4.

    An odd M leaves the last high nibble free: ``pad`` fills it (one number, or uint8 [N]).
    Raises ``InvalidArgumentError`` for another dtype or rank and for values above 15.
    """
    if values.dtype != torch.uint8 or values.dim() != 2:
        raise InvalidArgumentError(f"values is {list(values.shape)} {values.dtype}, expected [N, M] torch.uint8")
    if values.numel() and int(values.max()) > 15:
        raise InvalidArgumentError(f"values has a maximum of {int(values.max())}, expected 0..15")
    if values.shape[1] % 2 == 0:
        return values[:, 0::2] | (values[:, 1::2] << 4)
    out = values[:, 0::2].clone()
    out[:, :-1] |= values[:, 1::2] << 4
    last = torch.as_tensor(pad, dtype=torch.uint8)
    if last.numel() and int(last.max()) > 15:
        raise InvalidArgumentError(f"pad has a maximum of {int(last.max())}, expected 0..15")
    out[:, -1] |= last << 4
    return out


def unpack_nibbles(packed: torch.Tensor, count: int) -> torch.Tensor:
    """Inverse of ``pack_nibbles``: uint8 [N, ceil(count/2)] to uint8 [N, count]; the pad nibble is dropped."""
    if packed.dtype != torch.uint8 or packed.dim() != 2 or packed.shape[1] != (count + 1) // 2:
        raise InvalidArgumentError(
            f"packed is {list(packed.shape)} {packed.dtype}, expected [N, {(count + 1) // 2}] torch.uint8"
        )
    out = torch.empty(packed.shape[0], 2 * packed.shape[1], dtype=torch.uint8)
    out[:, 0::2] = packed & 15
    out[:, 1::2] = packed >> 4
    return out[:, :count].contiguous() if count % 2 else out
