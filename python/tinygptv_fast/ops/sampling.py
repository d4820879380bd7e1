"""From a row of logits to a token: penalties, filters and a draw; log-probabilities.

The same logits, parameters, seed, position and sample give the same token on every instruction set.
csrc/kernels/cpu/sampling.h has the rules and the arithmetic, ``reference.sampling`` the slow twins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from ..env import read_settings
from ..errors import InvalidArgumentError
from .gpu import sampling as gpu
from .tensors import DEVICES, buffer_of, native_module, on_gpu


class SampledToken(NamedTuple):
    """``id`` -1 and ``logprob`` NaN when ``finite`` is False: the logits hold NaN or +inf, or nothing but -inf."""

    id: int
    logprob: float
    finite: bool


def sample(
    logits: torch.Tensor,
    *,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    logit_bias: Mapping[int, float] | None = None,
    banned: Sequence[int] = (),
    history: Sequence[int] = (),
    position: int = 0,
    seed: int = 0,
    sample: int = 0,
) -> SampledToken:
    """Choose one token of ``logits`` float32 [V], contiguous, on the CPU, not modified; V up to 2^22.

    temperature 0 is greedy: the largest logit, the lowest id of equals; top_k, top_p and min_p are then not read.
    Order: logit_bias (id → number added), repetition penalty, frequency and presence penalty (on the ids of
    ``history``), banned ids, temperature, top_k (0: all), top_p (1: all), min_p (0: all). Random bits are
    Philox4x32-10 of key ``seed`` (0..2^64-1) and counter (``position`` 0..2^63-1, ``sample`` 0..2^32-1).
    The log-probability is that of the logits as given: float32 log-softmax.

    Raises ``InvalidArgumentError`` with one sentence about the first bad argument, ``UnsupportedError`` for an
    instruction set (``TINYGPTV_CPU_ISA``) this CPU lacks or logits that require a gradient.
    """
    settings = {
        "temperature": _number("temperature", temperature),
        "top_k": _integer("top_k", top_k, 63),
        "top_p": _number("top_p", top_p),
        "min_p": _number("min_p", min_p),
        "repetition_penalty": _number("repetition_penalty", repetition_penalty),
        "presence_penalty": _number("presence_penalty", presence_penalty),
        "frequency_penalty": _number("frequency_penalty", frequency_penalty),
        "seed": _integer("seed", seed, 64, unsigned=True),
        "sample": _integer("sample", sample, 32, unsigned=True),
    }
    bias = {_integer("logit_bias id", i, 31): _number("logit_bias", b) for i, b in (logit_bias or {}).items()}
    banned = [_integer("banned id", i, 31) for i in banned]
    history = [_integer("history id", i, 31) for i in history]
    position = _integer("position", position, 63)
    if on_gpu(logits):
        token, logprob = gpu.sample(logits, bias, banned, history, position, settings)
        return SampledToken(token, logprob, token >= 0)
    found = native_module().sample(
        buffer_of("logits", logits, torch.float32),
        logit_bias=list(bias.items()),
        banned=banned,
        history=history,
        position=position,
        isa=read_settings().cpu_isa,
        **settings,
    )
    return SampledToken(*found)


def top_logprobs(logits: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``n`` largest of ``logits`` float32 [V], best first, lowest id first among equals: ids int32 [n] and their
    log-softmax float32 [n]. ids are -1 and log-probabilities NaN if logits hold NaN or +inf or nothing above -inf.

    Raises ``InvalidArgumentError`` for a wrong type, dtype, device, shape or stride or n outside 1..V.
    """
    if torch.compiler.is_compiling():
        return torch.ops.tinygptv_fast.top_logprobs(logits, n)
    buffer = None if on_gpu(logits) else buffer_of("logits", logits, torch.float32)
    if type(n) is not int or not 1 <= n <= logits.numel():
        raise InvalidArgumentError(f"n is {n!r}, expected an integer 1..V={logits.numel()}")
    if buffer is None:
        return gpu.top_logprobs(logits, n)
    ids, logprobs = torch.empty(n, dtype=torch.int32), torch.empty(n)
    native_module().top_logprobs(ids.numpy(), logprobs.numpy(), buffer, read_settings().cpu_isa)
    return ids, logprobs


def log_softmax(logits: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """Log-softmax of each row of ``logits`` float32 [T, V], V up to 2^22: float32 [T, V], bit for bit the log-
    probabilities of ``sample`` and ``top_logprobs``. A row with NaN or +inf, or of -inf alone, gives NaN.

    ``out`` float32 [T, V] is written and returned; it may be ``logits``. All tensors are contiguous and on the CPU;
    there is no gradient. Raises ``InvalidArgumentError``, ``UnsupportedError``.
    """
    if torch.compiler.is_compiling() and out is None:
        return torch.ops.tinygptv_fast.log_softmax(logits)
    buffer = buffer_of("logits", logits, torch.float32)
    out = torch.empty_like(logits, memory_format=torch.contiguous_format) if out is None else out
    native_module().log_softmax(buffer_of("out", out, torch.float32), buffer, read_settings().cpu_isa)
    return out


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidArgumentError(f"{name} is {value!r}, expected a number")
    return float(value)


def _integer(name: str, value: object, bits: int, *, unsigned: bool = False) -> int:
    """``value`` if its type holds it: 0..2^bits-1, or signed with ``bits`` bits beside the sign."""
    if type(value) is not int or not (0 if unsigned else -(2**bits)) <= value < 2**bits:
        raise InvalidArgumentError(f"{name} is {value!r}, expected an integer 0..2^{bits}-1")
    return value


@torch.library.custom_op("tinygptv_fast::top_logprobs", mutates_args=(), device_types=DEVICES)
def _top_logprobs_op(logits: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return top_logprobs(logits, n)


@_top_logprobs_op.register_fake
def _top_logprobs_fake(logits: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    if logits.dim() != 1 or logits.dtype != torch.float32:
        raise InvalidArgumentError(f"logits is {list(logits.shape)} {logits.dtype}, expected [V] torch.float32")
    return logits.new_empty(n, dtype=torch.int32), logits.new_empty(n)


@torch.library.custom_op("tinygptv_fast::log_softmax", mutates_args=(), device_types="cpu")
def _log_softmax_op(logits: torch.Tensor) -> torch.Tensor:
    return log_softmax(logits)


@_log_softmax_op.register_fake
def _log_softmax_fake(logits: torch.Tensor) -> torch.Tensor:
    if logits.dim() != 2 or logits.dtype != torch.float32:
        raise InvalidArgumentError(f"logits is {list(logits.shape)} {logits.dtype}, expected [T, V] torch.float32")
    return torch.empty_like(logits, memory_format=torch.contiguous_format)
