"""Gradients layer by layer while a stage runs: of the states that leave each layer, and of what is trained in it.

The first are what "vanishing" is about, and mean the same whatever is trained; the second depend on how much is.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...reference.phi import PhiBackbone
from ..stages.report import read_log
from ..stages.step import Figures

FILE = "gradients.jsonl"
_LAYER = re.compile(r"text\.layers\.(\d+)\.")


class GradientLog:
    """A line per step in ``path``: norms over the whole batch, first layer first. A ``Listener``."""

    def __init__(
        self,
        path: Path,
        step: int,
        text: PhiBackbone,
        trained: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """step: how far the run is; lines of later ones are dropped."""
        kept = [line for line in read_log(path) if line["step"] <= step] if step else []
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(temporary, path)
        self._file = path.open("a", encoding="utf-8")
        self._trained = trained
        self._states = [0.0] * len(text.layers)
        self._weights: list[float] = []
        self._hooks: list[Any] = [
            layer.register_forward_hook(self._watch(index)) for index, layer in enumerate(text.layers)
        ]
        self._hooks.append(optimizer.register_step_pre_hook(lambda *_: self._look_at_weights()))

    def _watch(self, index: int) -> Any:
        def add(gradient: Tensor) -> None:
            self._states[index] += float(gradient.float().square().sum())

        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            if output.requires_grad:
                output.register_hook(add)

        return hook

    def _look_at_weights(self) -> None:
        squares = [0.0] * len(self._states)
        for name, parameter in self._trained.items():
            if parameter.grad is not None and (found := _LAYER.match(name)):
                squares[int(found[1])] += float(parameter.grad.float().square().sum())
        self._weights = [math.sqrt(square) for square in squares]

    def __call__(self, done: int, total: int, figures: Figures, seconds: float) -> None:
        states = [math.sqrt(square) for square in self._states]
        self._states = [0.0] * len(states)
        line = {"step": done, "states": _short(states), "weights": _short(self._weights)}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Take the hooks off and close the file."""
        for hook in self._hooks:
            hook.remove()
        self._file.close()


def _short(values: list[float]) -> list[float]:
    return [float(f"{value:.4g}") for value in values]
