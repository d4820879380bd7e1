"""How far a quantised model's predictions are from the unquantised model's, on the same (teacher-forced) tokens.

Both models read the reference's text, so every position compares one decision, not the drift of two texts. Knows
logits only: torch or numpy arrays, any float dtype; not models, prompts or tokenizers.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from ..errors import InvalidArgumentError

_Z95 = 1.959963984540054  # two-sided 95 % point of the normal distribution
_BLOCK_POSITIONS = 64  # float64 softmax of 64 x 51,200 logits is 26 MB


class Estimate(NamedTuple):
    """A mean over ``positions`` tokens with its 95 % interval low..high."""

    value: float
    low: float
    high: float
    positions: int


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927): sane at 0 and 1, where the normal interval collapses."""
    if trials < 1 or not 0 <= successes <= trials:
        raise InvalidArgumentError(
            f"successes is {successes} of trials={trials}, expected 0 <= successes <= trials >= 1"
        )
    rate, z2 = successes / trials, _Z95 * _Z95
    centre = rate + z2 / (2 * trials)
    spread = _Z95 * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials * trials))
    low, high = (centre - spread) / (1 + z2 / trials), (centre + spread) / (1 + z2 / trials)
    # At the ends the bound is the rate itself; clear the rounding error of the subtraction.
    return (0.0 if successes == 0 else low), (1.0 if successes == trials else high)


class AgreementCounter:
    """Accumulates agreement over many prompts: ``update`` per prompt, then read ``tokens()`` and ``kl()``."""

    def __init__(self) -> None:
        self._matched = 0
        self._positions = 0
        self._kl_sum = 0.0
        self._kl_squares = 0.0

    def update(self, reference_logits: Any, quantized_logits: Any, answer_mask: Any = None) -> None:
        """Add one prompt. Logits [T, V]; ``answer_mask`` bool [T] picks the positions that predict the answer.

        Raises ``InvalidArgumentError`` for unequal shapes, a mask of another shape or dtype, and NaN or +infinity in
        the logits (−infinity is a legal mask value, in both arrays at the same places).
        """
        reference, quantized = (
            _logits("reference_logits", reference_logits),
            _logits("quantized_logits", quantized_logits),
        )
        if reference.shape != quantized.shape:
            raise InvalidArgumentError(
                f"quantized_logits is {list(quantized.shape)}, expected {list(reference.shape)} as reference_logits"
            )
        chosen = _chosen(answer_mask, reference.shape[0])
        for start in range(0, chosen.numel(), _BLOCK_POSITIONS):
            block = chosen[start : start + _BLOCK_POSITIONS]
            self._add(reference[block].double(), quantized[block].double())

    def tokens(self) -> Estimate:
        """Share of positions where both models' most likely token is the same (ties: lowest id), Wilson interval."""
        self._need_positions()
        low, high = wilson_interval(self._matched, self._positions)
        return Estimate(self._matched / self._positions, low, high, self._positions)

    def kl(self) -> Estimate:
        """Mean KL(reference ‖ quantised) in nats, with the normal interval mean ± 1.96·sd/√n (low not below 0)."""
        self._need_positions()
        n = self._positions
        mean = self._kl_sum / n
        variance = max(self._kl_squares - n * mean * mean, 0.0) / (n - 1) if n > 1 else math.inf
        half = _Z95 * math.sqrt(variance / n)
        return Estimate(mean, max(mean - half, 0.0), mean + half, n)

    def to_dict(self) -> dict[str, Any]:
        """The ``agreement`` object of ``quality.json``."""
        tokens, kl = self.tokens(), self.kl()
        high = kl.high if math.isfinite(kl.high) else None  # one position has no spread
        return {
            "positions": tokens.positions,
            "token_agreement": tokens.value,
            "token_agreement_95": [tokens.low, tokens.high],
            "kl_nats": kl.value,
            "kl_nats_95": [kl.low, high],
        }

    def _add(self, reference: torch.Tensor, quantized: torch.Tensor) -> None:
        log_p, log_q = reference.log_softmax(-1), quantized.log_softmax(-1)
        p = log_p.exp()
        terms = torch.where(p > 0, p * (log_p - log_q), 0.0)
        kl = terms.sum(-1).clamp_min(0.0)  # exact KL is >= 0; rounding may leave -1e-17
        if not bool(torch.isfinite(kl).all()):
            raise InvalidArgumentError("quantized_logits is -infinity at a token that reference_logits allows")
        self._matched += int((reference.argmax(-1) == quantized.argmax(-1)).sum())
        self._positions += int(kl.numel())
        self._kl_sum += float(kl.sum())
        self._kl_squares += float(kl.square().sum())

    def _need_positions(self) -> None:
        if not self._positions:
            raise InvalidArgumentError("agreement has no positions, expected at least one answer token")


def token_agreement(reference_logits: Any, quantized_logits: Any, answer_mask: Any = None) -> Estimate:
    """``AgreementCounter.tokens`` of one pair of logits [T, V]."""
    counter = AgreementCounter()
    counter.update(reference_logits, quantized_logits, answer_mask)
    return counter.tokens()


def mean_kl(reference_logits: Any, quantized_logits: Any, answer_mask: Any = None) -> Estimate:
    """``AgreementCounter.kl`` of one pair of logits [T, V]."""
    counter = AgreementCounter()
    counter.update(reference_logits, quantized_logits, answer_mask)
    return counter.kl()


def _logits(name: str, value: Any) -> torch.Tensor:
    tensor = torch.as_tensor(value).detach()
    if tensor.dim() != 2 or not tensor.is_floating_point() or not tensor.shape[1]:
        raise InvalidArgumentError(f"{name} is {list(tensor.shape)} {tensor.dtype}, expected [T, V >= 1] floats")
    if bool(torch.isnan(tensor).any()) or bool((tensor == math.inf).any()):
        raise InvalidArgumentError(f"{name} holds NaN or +infinity, expected finite logits")
    return tensor


def _chosen(answer_mask: Any, positions: int) -> torch.Tensor:
    if answer_mask is None:
        return torch.arange(positions)
    mask = torch.as_tensor(answer_mask)
    if mask.dtype != torch.bool or tuple(mask.shape) != (positions,):
        raise InvalidArgumentError(f"answer_mask is {list(mask.shape)} {mask.dtype}, expected [T={positions}] bool")
    return mask.nonzero()[:, 0]
