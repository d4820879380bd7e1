"""The paper's four training stages and fine-tuning, as data, and the one trainer that runs them all.

A run is: a ``StageConfig`` (which tensors, which schedule, how rows are laid out), a model, and a source of batches
that is a pure function of the step. Runs on ``reference/``; knows nothing of the command line. Names are imported on
first use, so that a config can be checked without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import FINETUNE, StageConfig, load_stage
    from .examples import Batches, Example, Mixture, Turn
    from .features import FrozenVision
    from .run import Trainer, train_stage
    from .start import Start, open_start, write_trained
    from .world import World, open_world

_LAZY = {
    "FINETUNE": "config",
    "StageConfig": "config",
    "load_stage": "config",
    "Batches": "examples",
    "Example": "examples",
    "Mixture": "examples",
    "Turn": "examples",
    "FrozenVision": "features",
    "Trainer": "run",
    "train_stage": "run",
    "Start": "start",
    "open_start": "start",
    "write_trained": "start",
    "World": "world",
    "open_world": "world",
}

__all__ = [
    "FINETUNE",
    "Batches",
    "Example",
    "FrozenVision",
    "Mixture",
    "StageConfig",
    "Start",
    "Trainer",
    "Turn",
    "World",
    "load_stage",
    "open_start",
    "open_world",
    "train_stage",
    "write_trained",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
