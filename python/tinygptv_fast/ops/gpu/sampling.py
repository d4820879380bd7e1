"""A token drawn on a GPU. csrc/kernels/cuda/sampling.h: the same logits, settings and counter give the CPU's token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...errors import InvalidArgumentError
from ..tensors import native_module
from .caller import Caller, dims

MOST_BEST = 64  # of top_logprobs


def sample(
    logits: torch.Tensor,
    logit_bias: Mapping[int, float],
    banned: Sequence[int],
    history: Sequence[int],
    position: int,
    settings: Mapping[str, Any],
) -> tuple[int, float]:
    """(id, log-probability) of logits float32 [V]; (-1, NaN) for no token. settings: of ``CudaOps.sampling_settings``.
    Waits for the GPU. Raises ``InvalidArgumentError``."""
    (V,) = dims("logits", logits, "V")
    if position < 0:
        raise InvalidArgumentError(f"position is {position}, expected >= 0")
    for token in history:
        if not 0 <= token < V:
            raise InvalidArgumentError(f"history holds id {token}, expected 0..{V - 1}")
    ids, logprobs, _, _ = _draw(
        logits, sorted(logit_bias.items()), sorted(banned), list(history), position, settings, 0
    )
    return int(ids.item()), float(logprobs.item())


def top_logprobs(logits: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The n largest (at most 64) of logits float32 [V] and their log-probabilities, on the GPU."""
    dims("logits", logits, "V")
    if n > MOST_BEST:
        raise InvalidArgumentError(f"n is {n}, expected at most {MOST_BEST} on a GPU")
    plain = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    plain |= {"presence_penalty": 0.0, "frequency_penalty": 0.0, "seed": 0, "sample": 0}
    return _draw(logits, [], [], [], 0, plain, n)[2:]


def _draw(
    logits: torch.Tensor,
    bias: list[tuple[int, float]],
    banned: list[int],
    history: list[int],
    position: int,
    settings: Mapping[str, Any],
    top: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    caller, (V,) = Caller("logits", logits), logits.shape
    raw = native_module().CudaOps.sampling_settings(
        vocab=V, logit_bias=bias, banned=banned, history=len(history), **settings
    )

    def sent(values: list[Any], dtype: torch.dtype) -> torch.Tensor | None:
        return torch.tensor(values, dtype=dtype).to(caller.device) if values else None

    def made(count: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(count, dtype=dtype, device=caller.device)

    changes = bool(bias or banned or history)
    parts = {
        "settings": torch.frombuffer(bytearray(raw), dtype=torch.uint8).to(caller.device),
        "positions": sent([position], torch.int64),
        "history": sent(history, torch.int32),
        "bias_ids": sent([token for token, _ in bias], torch.int32),
        "bias_values": sent([value for _, value in bias], torch.float32),
        "banned_ids": sent(banned, torch.int32),
        "row": made(V, torch.float32) if changes else None,
        "counts": torch.zeros(V, dtype=torch.int32, device=caller.device) if history else None,
        "ids": made(1, torch.int32),
        "logprobs": made(1, torch.float32),
        "top_ids": made(top, torch.int32),
        "top_logprobs": made(top, torch.float32),
    }
    caller.kernels.sample(
        vocab=V,
        top=top,
        logits=caller.address("logits", logits, torch.float32, V),
        **{name: 0 if part is None else part.data_ptr() for name, part in parts.items()},
    )
    ids, logprobs, top_ids, top_values = (parts[n] for n in ("ids", "logprobs", "top_ids", "top_logprobs"))
    assert ids is not None and logprobs is not None and top_ids is not None and top_values is not None
    return ids, logprobs, top_ids, top_values
