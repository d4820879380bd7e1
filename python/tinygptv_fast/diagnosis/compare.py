"""Two versions of one model side by side on a calibration set: error of the states after every layer, and agreement
of the predicted tokens. Layers of both are loaded, run and dropped in turn, so full-size models fit small memory.

Each version walks on from its own states: the figures hold what earlier layers added, as in a real run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..processing.image import ImageProcessor
from ..quantize.agreement import AgreementCounter
from .calibration import CalibrationSet
from .layers import Step, judged_logits, walk_text, walk_vision
from .weights import WeightSource

Progress = Callable[[int, int, str], None]
"""``progress(layers_done, layers_in_all, name)``."""


@dataclass(frozen=True)
class LayerError:
    """States after layer ``name``, all inputs together: ‖a − b‖ / ‖a‖, and the largest |a − b|, in the states' unit."""

    name: str
    relative_l2: float
    max_abs: float

    def to_dict(self) -> dict[str, Any]:
        """A json-ready dict."""
        return {"name": self.name, "relative_l2": self.relative_l2, "max_abs": self.max_abs}


@dataclass(frozen=True)
class Comparison:
    """``layers`` in the order of computation; ``agreement`` has one entry per judged position."""

    layers: list[LayerError]
    agreement: AgreementCounter


def compare(
    reference: WeightSource,
    other: WeightSource,
    chosen: CalibrationSet,
    processor: ImageProcessor | None,
    progress: Progress | None = None,
) -> Comparison:
    """Run both versions on ``chosen``. ``processor`` may be None for a set without pictures.

    Memory: two layers in float32, the states of the whole set twice, the logits of the judged positions twice. States
    or logits that are not finite raise ``InvalidArgumentError`` (logits) or give an infinite error (states).
    """
    total, done = _steps(reference, chosen), 0
    layers: list[LayerError] = []
    last: tuple[list[Tensor], list[Tensor]] = ([], [])

    def follow(a: Iterator[Step], b: Iterator[Step]) -> tuple[list[Tensor], list[Tensor]]:
        nonlocal done, last
        for (name, ours), (_, theirs) in zip(a, b, strict=True):
            layers.append(_error(name, ours, theirs))
            last, done = (ours, theirs), done + 1
            if progress is not None:
                progress(done, total, name)
        return last

    visual: tuple[list[Tensor], list[Tensor]] = ([], [])
    if chosen.pictures:
        assert processor is not None  # for the type checker
        pixels = [processor.pixels(picture) for picture in chosen.pictures]
        visual = follow(walk_vision(reference, pixels), walk_vision(other, pixels))
    hidden = follow(walk_text(reference, chosen.inputs, visual[0]), walk_text(other, chosen.inputs, visual[1]))
    counter = AgreementCounter()
    logits = judged_logits(reference, chosen.inputs, hidden[0]), judged_logits(other, chosen.inputs, hidden[1])
    for ours, theirs in zip(*logits, strict=True):
        counter.update(ours, theirs)
    return Comparison(layers, counter)


def _steps(source: WeightSource, chosen: CalibrationSet) -> int:
    config, steps = source.config, source.config.text.layers + 2
    if chosen.pictures and config.vision is not None and config.qformer is not None:
        steps += config.vision.layers + config.qformer.layers + 3
    return steps


def _error(name: str, ours: list[Tensor], theirs: list[Tensor]) -> LayerError:
    squared = norm = largest = 0.0
    for a, b in zip(ours, theirs, strict=True):
        difference = (a.double() - b.double()).flatten()
        squared += float(difference.dot(difference))
        norm += float(a.double().square().sum())
        largest = max(largest, float(difference.abs().max()))
    if not math.isfinite(squared) or not math.isfinite(norm):
        return LayerError(name, math.inf, math.inf)
    return LayerError(name, math.sqrt(squared / norm) if norm else 0.0, largest)
