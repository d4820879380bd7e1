"""Weights of a model, one tensor at a time in float32: from a model directory, or remade from the original's files.

The two sources answer alike, so that the same code can run a layer on either. Nothing is kept between calls.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..checkpoint.architecture import read_architecture
from ..checkpoint.directory import ModelDirectory
from ..checkpoint.plan import Plan, make_plan
from ..config import ModelConfig
from ..errors import CheckpointError
from ..quantize.int4 import Int4Tensor, dequantize_int4
from ..quantize.int8 import Int8Tensor, dequantize_int8

PathLike = str | os.PathLike[str]
_Module = TypeVar("_Module", bound=nn.Module)


class WeightSource(Protocol):
    """Canonical tensors (docs/architecture.md) of a model of ``config``."""

    config: ModelConfig

    def tensor(self, name: str) -> Tensor:
        """float32, unquantised shape."""
        ...

    def rows(self, name: str, ids: list[int] | range) -> Tensor:
        """float32 [len(ids), ...]: the rows ``ids`` of matrix ``name``, without making the others."""
        ...


class DirectorySource:
    """A model directory, dequantised on demand."""

    def __init__(self, directory: ModelDirectory) -> None:
        self.directory = directory
        self.config = directory.config

    def tensor(self, name: str) -> Tensor:
        """``name`` as the model computes with it, in float32."""
        return self.directory.dequantized(name).to(torch.float32)

    def rows(self, name: str, ids: list[int] | range) -> Tensor:
        """Those rows alone are dequantised."""
        which = slice(ids.start, ids.stop) if isinstance(ids, range) else ids
        if self.directory.kind(name) not in ("int8", "int4"):
            return self.directory.tensor(name)[which].to(torch.float32)
        packed = self.directory.quantized(name)
        if isinstance(packed, Int8Tensor):
            return dequantize_int8(Int8Tensor(packed.qweight[which], packed.scales[which]))
        zeros = None if packed.zeros is None else packed.zeros[which]
        part = Int4Tensor(packed.qweight[which], packed.scales[which], zeros, packed.columns, packed.group_size)
        return dequantize_int4(part)


class OriginalSource:
    """The original's files: every tensor recomputed (LoRA and projections folded) as a conversion would."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.config = plan.config

    def tensor(self, name: str) -> Tensor:
        """``name`` before any rounding."""
        return self.plan.recipes[name].all().contiguous()

    def rows(self, name: str, ids: list[int] | range) -> Tensor:
        """Those rows alone are read."""
        recipe = self.plan.recipes[name]
        if isinstance(ids, range):
            return recipe.rows(ids.start, ids.stop)
        return torch.cat([recipe.rows(i, i + 1) for i in ids])


def open_originals(
    directory: ModelDirectory,
    phi: PathLike,
    vision: PathLike | None = None,
    qformer: PathLike | None = None,
    checkpoint: PathLike | None = None,
    architecture: Mapping[str, Any] | PathLike | None = None,
) -> OriginalSource:
    """The original's files that ``directory`` was made from. Raises ``CheckpointError`` if they make another model."""
    size = directory.config.vision.image_size if directory.config.vision is not None else None
    plan = make_plan(phi, vision, qformer, checkpoint, architecture=read_architecture(architecture), image_size=size)
    check_same_model(directory.config, plan.config, "the original files")
    return OriginalSource(plan)


def check_same_model(config: ModelConfig, other: ModelConfig, what: str) -> None:
    """Raise ``CheckpointError`` unless both configurations have the same sizes."""
    for part in ("text", "vision", "qformer"):
        ours, theirs = getattr(config, part), getattr(other, part)
        if ours != theirs:
            raise CheckpointError(f"{what} make another model: {part} is {theirs}, the directory has {ours}")


def build(make: Callable[[], _Module], prefix: str, source: WeightSource) -> _Module:
    """The module ``make()`` with the tensors of ``source`` under ``prefix``, without allocating it twice."""
    with torch.device("meta"):
        module = make()
    state = {name: source.tensor(f"{prefix}.{name}") for name in module.state_dict()}
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval().requires_grad_(False)
