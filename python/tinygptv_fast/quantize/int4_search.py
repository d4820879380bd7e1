"""The int4 scale search in plain torch: the readable twin of csrc/kernels/cpu/quantize_int4.

Both do the same float32 operations in the same order, so levels and scales agree bit for bit; a change here is a
change there. Knows groups as columns of a [G, n] block; not rows, not packing.

For one group w of G values (zeros beyond the end of a row change nothing: every format represents 0 exactly) the
search minimises E(s, z) = Σ (w − (q−z)·s)² with q the nearest level, over scales that are *already rounded to
float16*, so that the error minimised is the error stored:

symmetric, z = 8: |s| = f16(max|w| · i/256) for i = 16..37, 38, 40..64, with both signs: a negative s puts the eighth
    level on the positive side. i = 32 is llama.cpp's Q4_0 (s = −signed extreme / 8), hence never worse than it. The
    spacing moves no level by more than 1/4, so the levels of weights that were quantised before are nearly always found
    again; scales above i = 64 use levels −3..3 at most, and half of them does the same.
asymmetric: starts from the symmetric winner (turned to s > 0: z = 8 or 7), then s = f16((hi−lo) · i/480), i = 16..35,
    with the two integer zeros around 7.5 − (hi+lo)/2s, where lo ≤ 0 ≤ hi are the extremes.

Then, twice: s' = f16(Σ w·p / Σ p²), p = q−z, the least-squares scale of the levels chosen, kept if E falls.
Ties keep the earlier candidate. Errors are summed in ascending k.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

SCALE_MAX = 65504.0  # largest finite float16
SYMMETRIC_STEPS = (*range(16, 38), *range(38, 66, 2))  # |s| = max|w| * i / 256
ASYMMETRIC_STEPS = range(16, 36)  # s = (hi - lo) * i / 480
REFINEMENTS = 2


@dataclass
class GroupFit:
    """Best fit so far of n groups, all f32 [n]: scale (float16 values), zero (0..15), error E(s, z), norm Σ w²."""

    scale: torch.Tensor
    zero: torch.Tensor
    error: torch.Tensor
    norm: torch.Tensor

    def offer(self, error: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> None:
        """Take the candidate where its error is strictly smaller."""
        better = error < self.error
        self.error = torch.where(better, error, self.error)
        self.scale = torch.where(better, scale, self.scale)
        self.zero = torch.where(better, zero, self.zero)


def search_symmetric(w_Gn: torch.Tensor) -> GroupFit:
    """Fit f32 [G, n] (finite, max|w|/8 <= 65504) with z = 8; s may be negative, and is 0 where w rounds to 0."""
    eight = torch.full_like(w_Gn[0], 8.0)
    norm = _sum_of_squares(w_Gn)  # also the error of s = 0, the candidate to beat
    fit = GroupFit(torch.zeros_like(eight), eight, norm, norm)
    _offer_symmetric_grid(fit, w_Gn)
    _refine(fit, w_Gn)
    return fit


def search_asymmetric(w_Gn: torch.Tensor) -> GroupFit:
    """Fit f32 [G, n] (finite, (hi-lo)/15 <= 65504) with an integer zero 0..15 and a scale >= 0."""
    fit = search_symmetric(w_Gn)
    fit.zero = torch.where(fit.scale < 0, 7.0, 8.0)
    fit.scale = fit.scale.abs()
    lo, hi = w_Gn.amin(0).clamp_max(0.0), w_Gn.amax(0).clamp_min(0.0)
    span, middle = hi - lo, (hi + lo) * 0.5
    for i in ASYMMETRIC_STEPS:
        scale = _to_half(span * torch.tensor(i / 480.0, dtype=torch.float32))
        inverse = _inverse(scale)
        levels = (w_Gn * inverse).round()
        first = torch.floor(7.5 - middle * inverse)
        for zero in (first.clamp(0.0, 15.0), (first + 1.0).clamp(0.0, 15.0)):
            clipped = torch.minimum(torch.maximum(levels, -zero), 15.0 - zero)
            fit.offer(_sum_of_squares(w_Gn - clipped * scale), scale, zero)
    _refine(fit, w_Gn)
    return fit


def levels_of(w_Gn: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """Nearest levels q − z as f32 [G, n]: rint(w · (1/s)) kept within −z..15−z; 0 where s is 0."""
    return torch.minimum(torch.maximum(w_Gn * _inverse(scale), -zero), 15.0 - zero).round()


def _offer_symmetric_grid(fit: GroupFit, w_Gn: torch.Tensor) -> None:
    largest = w_Gn.abs().amax(0)
    for i in SYMMETRIC_STEPS:
        scale = _to_half(largest * (i / 256.0))
        levels = (w_Gn * _inverse(scale)).clamp(-8.0, 8.0).round()
        fit.offer(_sum_of_squares(w_Gn - levels.clamp_max(7.0) * scale), scale, fit.zero)
        fit.offer(_sum_of_squares(w_Gn - levels.clamp_min(-7.0) * scale), -scale, fit.zero)


def _refine(fit: GroupFit, w_Gn: torch.Tensor) -> None:
    for _ in range(REFINEMENTS):
        levels = levels_of(w_Gn, fit.scale, fit.zero)
        ratio = _sum(w_Gn * levels) / _sum_of_squares(levels).clamp_min(1.0)
        scale = _to_half(ratio)
        levels = levels_of(w_Gn, scale, fit.zero)
        fit.offer(_sum_of_squares(w_Gn - levels * scale), scale, fit.zero)


def _inverse(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale == 0, 0.0, 1.0 / scale)


def _to_half(scale: torch.Tensor) -> torch.Tensor:
    """Round to float16 (nearest, ties to even, denormals kept), saturating at ±65504; stays f32."""
    return scale.clamp(-SCALE_MAX, SCALE_MAX).half().float()


def _sum_of_squares(x_Gn: torch.Tensor) -> torch.Tensor:
    return _sum(x_Gn * x_Gn)


def _sum(x_Gn: torch.Tensor) -> torch.Tensor:
    """Sum over axis 0 strictly in ascending order: torch's own sum has an order of its own."""
    total = x_Gn[0].clone()
    for row in x_Gn[1:]:
        total += row
    return total
