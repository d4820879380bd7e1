"""The original's learning-rate schedule (minigpt4/common/optims.py, LinearWarmupCosineLRScheduler)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import InvalidArgumentError


@dataclass(frozen=True)
class WarmupCosine:
    """Linear warm-up, then a cosine from ``init_lr`` to ``min_lr`` over all steps.

    The warm-up counts steps *within the epoch* while its end is judged on all steps, so with more warm-up steps than
    steps per epoch the rate falls back at each epoch's start (original behaviour). A negative ``warmup_start_lr`` means
    ``init_lr``. ``per_epoch=False`` counts the warm-up over all steps instead: the rate rises once.
    """

    max_epoch: int
    iters_per_epoch: int
    min_lr: float
    init_lr: float
    warmup_steps: int = 0
    warmup_start_lr: float = -1.0
    per_epoch: bool = True

    def __post_init__(self) -> None:
        for name in ("max_epoch", "iters_per_epoch"):
            if getattr(self, name) < 1:
                raise InvalidArgumentError(f"{name} is {getattr(self, name)!r}, expected an integer >= 1")

    def lr(self, epoch: int, step: int) -> float:
        """Learning rate at ``step`` (0-based) of ``epoch`` (0-based)."""
        total = epoch * self.iters_per_epoch + step
        if total < self.warmup_steps:
            risen = step if self.per_epoch else total
            start = self.warmup_start_lr if self.warmup_start_lr >= 0 else self.init_lr
            return min(self.init_lr, start + (self.init_lr - start) * risen / max(self.warmup_steps, 1))
        share = 0.5 * (1.0 + math.cos(math.pi * total / (self.max_epoch * self.iters_per_epoch)))
        return (self.init_lr - self.min_lr) * share + self.min_lr
