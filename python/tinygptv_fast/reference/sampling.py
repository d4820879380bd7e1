"""Slow twins of ``ops.sample``, ``ops.top_logprobs`` and ``ops.log_softmax``, in numpy.

``sample`` does the same arithmetic as the kernel wherever it decides: float32 exponentials in the same sequence of
roundings, integer weights, Philox. So tokens are equal, not close. Log-probabilities are float64, rounded once.
The processors' order and meaning are those of ``warpers``; tests compare the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

_F32 = np.float32
_LARGEST = np.finfo(np.float32).max
_EXP = (0.0013926250394433737, 0.00836323294788599, 0.04166655242443085, 0.16666576266288757, 0.5, 1.0, 1.0)


def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Philox4x32-10 of Salmon et al. (SC 2011): four 32-bit words of counter (4 words) and key (2 words)."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b & 0xFFFFFFFF, a >> 32 ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def random_bits(seed: int, position: int, sample: int) -> int:
    """The 64 random bits of one token."""
    low = 0xFFFFFFFF
    words = philox([position & low, position >> 32, sample, 0], [seed & low, seed >> 32])
    return words[0] | words[1] << 32


def exp_of_negative(x: np.ndarray) -> np.ndarray:
    """exp(x) float32 for x <= 0, rounded as the kernels round; 0 below -87."""
    safe = np.where(x < -87, _F32(0), x)
    shifted = safe * _F32(1.4426950408889634) + _F32(12582912)
    n = shifted - _F32(12582912)
    r = (safe - n * _F32(0.693145751953125)) - n * _F32(1.4286068203094172e-6)
    p = np.full_like(r, _EXP[0])
    for coefficient in _EXP[1:]:
        p = p * r + _F32(coefficient)
    return np.where(x < -87, _F32(0), np.ldexp(p, n.astype(np.int32)))


def process(
    logits: np.ndarray,
    *,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    logit_bias: Mapping[int, float] | None = None,
    banned: Sequence[int] = (),
    history: Sequence[int] = (),
) -> np.ndarray:
    """logits float32 [V] after bias, penalties and bans."""
    row = logits.copy()
    for i, bias in (logit_bias or {}).items():
        row[i] = min(row[i] + _F32(bias), _LARGEST)
    if repetition_penalty != 1 or presence_penalty != 0 or frequency_penalty != 0:
        r = _F32(repetition_penalty)
        for i in set(history):
            value = row[i] * r if row[i] < 0 else row[i] / r
            value -= _F32(frequency_penalty) * _F32(list(history).count(i))
            row[i] = min(value - _F32(presence_penalty), _LARGEST)
    row[list(banned)] = -np.inf
    return row


def weights_of(row: np.ndarray, *, temperature: float, top_k: int, top_p: float, min_p: float) -> np.ndarray:
    """Integer weights uint64 [V] of a draw from processed logits, 0 for what the filters drop."""
    with np.errstate(over="ignore"):  # 1 / a denormal, (l - L) / T
        slope = _F32(_LARGEST) if _F32(temperature) < _F32(2.0**-126) else _F32(1) / _F32(temperature)
        e = exp_of_negative((row - row.max()) * slope)
    weights = (e * _F32(2.0**40)).astype(np.uint64)
    if 0 < top_k < len(row):
        weights[row < np.sort(row)[-top_k]] = 0
    kept = weights.copy()
    if top_p < 1:
        in_top_k = row >= np.sort(row)[-top_k] if 0 < top_k < len(row) else np.ones(len(row), bool)
        nucleus = max(int(float(_F32(top_p)) * float(int(weights.sum()))), 1)
        # the weight of all exponentials larger than each one's
        values, group = np.unique(e, return_inverse=True)
        mass = np.zeros(len(values), np.uint64)
        np.add.at(mass, group[in_top_k], weights[in_top_k])
        above = mass[::-1].cumsum()[::-1] - mass
        kept[above[group] >= nucleus] = 0
    kept[e < _F32(min_p)] = 0
    return kept


@np.errstate(over="ignore")
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
) -> tuple[int, float, bool]:
    """(id, log-softmax of the logits as given, finite) of logits float32 [V]; arguments as in ``ops.sample``."""
    raw = logits.numpy()
    if not raw.max() < np.inf or np.isneginf(raw).all():
        return -1, float("nan"), False
    row = process(
        raw,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        logit_bias=logit_bias,
        banned=banned,
        history=history,
    )
    if np.isneginf(row).all():
        return -1, float("nan"), False
    chosen = int(row.argmax())
    if temperature > 0:
        weights = weights_of(row, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        target = int(weights.sum()) * random_bits(seed, position, sample) >> 64
        chosen = int(np.searchsorted(weights.cumsum(), np.uint64(target), side="right"))
    return chosen, float(log_softmax(logits[None])[0, chosen]), True


def top_logprobs(logits: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """ids int32 [n] and log-softmax float32 [n] of the n largest logits float32 [V], lowest id first among equals."""
    ids = torch.sort(logits, descending=True, stable=True).indices[:n]
    return ids.to(torch.int32), log_softmax(logits[None])[0, ids]


def log_softmax(logits: torch.Tensor) -> torch.Tensor:
    """Log-softmax of the rows of logits float32 [T, V], computed in float64: float32 [T, V]."""
    return logits.double().log_softmax(-1).float()
