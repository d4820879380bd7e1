"""One stretch of training with one schedule, as data. No torch import."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InvalidArgumentError


@dataclass(frozen=True)
class Phase:
    """One stretch of training with one optimiser and one schedule (linear warm-up, constant, linear to zero).

    ``pictures`` per step; ``questions`` per picture (0 in "see", which has labels instead of words).
    """

    steps: int
    pictures: int
    questions: int
    muon_lr: float
    adam_lr: float
    warmup: int = 50
    decay: float = 0.5  # the last fraction of the steps, over which the rate falls to zero

    def __post_init__(self) -> None:
        if self.steps < 0 or self.pictures < 1 or self.questions < 0:
            raise InvalidArgumentError(
                f"Phase has steps={self.steps}, pictures={self.pictures}, questions={self.questions}, expected >= 0,1,0"
            )

    def rate(self, step: int) -> float:
        """The factor 0..1 on both learning rates at ``step``."""
        up = min(1.0, (step + 1) / max(1, min(self.warmup, self.steps // 4)))
        down = (self.steps - step) / max(1.0, self.decay * self.steps)
        return max(0.0, min(up, down))
