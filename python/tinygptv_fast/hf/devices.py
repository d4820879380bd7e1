"""Where the tensors of callers are. Everything in this folder works on tensors of the CPU, whatever device the native
core runs on: what comes from a GPU is brought over, and what was made of it goes back there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidArgumentError

CPU, CUDA = "cpu", "cuda"
# What a call is about: the first one that is given.
_PROMPTS = ("input_ids", "inputs", "inputs_embeds")


def device_name(device: Any) -> str | None:
    """What ``accelerate`` was given, as "cpu" or "cuda"; None for None. Raises InvalidArgumentError for other devices
    and for a GPU that is not the first."""
    if device is None:
        return None
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InvalidArgumentError(f"device is {device!r}, expected None, 'cpu' or 'cuda'") from error
    if found.type not in (CPU, CUDA) or (found.type == CUDA and found.index not in (None, 0)):
        raise InvalidArgumentError(f"device is {device!r}, expected None, 'cpu' or 'cuda', which is the first GPU")
    return found.type


def home_of(given: Mapping[str, Any]) -> torch.device:
    """Of the prompt among the arguments of a call, where its results are wanted. The CPU if there is none."""
    prompt = next((given[name] for name in _PROMPTS if isinstance(given.get(name), Tensor)), None)
    return torch.device(CPU) if prompt is None else prompt.device


def to_host(given: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` with its tensors on the CPU. Raises InvalidArgumentError for one that is neither there nor on a GPU."""
    for name, value in given.items():
        if isinstance(value, Tensor) and value.device.type not in (CPU, CUDA):
            raise InvalidArgumentError(f"{name} is on {value.device}, expected the CPU or a GPU")
    return {name: value.cpu() if isinstance(value, Tensor) else value for name, value in given.items()}


def to_device(result: Any, home: torch.device) -> Any:
    """``result`` of ``generate`` or of a forward pass with its tensors on ``home``. It is a tensor, an output of
    transformers, or tuples of those. A native cache stays what it is."""
    if isinstance(result, Tensor):
        return result.to(home)
    if home.type == CPU:
        return result
    if isinstance(result, Mapping):  # an output of transformers is one, and a dataclass
        return type(result)(**{name: to_device(value, home) for name, value in result.items()})
    if isinstance(result, tuple):
        return tuple(to_device(value, home) for value in result)
    return result
