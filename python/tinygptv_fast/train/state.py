"""The state of a run and its file: written to a temporary name and renamed, so that a stop never leaves half of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError
from ..reference.model import TinyGPTVReference
from .heads import TeachingHeads
from .optimizers import MuonAdamW
from .recipe import PHASES, Phase, Recipe
from .saving import load_state_file, save_atomically

#: Name prefixes of the parameters that each phase trains.
TRAINED: dict[str, tuple[str, ...]] = {
    "see": ("vision.", "ln_vision.", "qformer.", "heads."),
    "read": ("projector.", "text."),
    "join": ("vision.", "ln_vision.", "qformer.", "projector.", "text."),
}


@dataclass
class Run:
    """A model in training: where it is (``phase``, ``step`` steps done of it), its optimiser and its log."""

    recipe: Recipe
    model: TinyGPTVReference
    heads: TeachingHeads
    phase: str = PHASES[0]
    step: int = 0
    seconds: float = 0.0
    optimiser: MuonAdamW = field(init=False)
    log: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.enter(self.phase)

    def enter(self, phase: str) -> None:
        """Begin ``phase``: a new optimiser over its parameters, everything else frozen."""
        self.phase, self.step = phase, 0
        settings = self.settings
        named = []
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(TRAINED[phase]))
            parameter.grad = None
            if parameter.requires_grad:
                named.append((name, parameter))
        self.optimiser = MuonAdamW(named, settings.muon_lr, settings.adam_lr)

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [*self.model.named_parameters(), *((f"heads.{n}", p) for n, p in self.heads.named_parameters())]

    @property
    def settings(self) -> Phase:
        return self.recipe.phase(self.phase)


def new_run(recipe: Recipe) -> Run:
    """Fresh weights from ``recipe.seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        config = recipe.model_config()
        assert config.vision is not None and config.qformer is not None
        model = TinyGPTVReference(config)
        # The reference starts these at zero because files fill them; queries that start equal would stay equal.
        nn.init.normal_(model.qformer.query_tokens, std=0.5)
        nn.init.normal_(model.vision.pos_embed, std=0.3)
        nn.init.normal_(model.vision.cls_token, std=0.3)
        nn.init.normal_(model.text.embed.weight, std=0.5)
        return Run(recipe, model, TeachingHeads(config.vision.width, config.qformer.width))


def save_run(run: Run, path: Path) -> None:
    """Atomic: ``path`` is the old state or the new one, never a part."""
    data = {
        "recipe": run.recipe.to_dict(),
        "model": run.model.state_dict(),
        "heads": run.heads.state_dict(),
        "phase": run.phase,
        "step": run.step,
        "seconds": run.seconds,
        "optimiser": run.optimiser.state_dict(),
        "log": run.log,
    }
    save_atomically(data, path)


def load_run(path: Path) -> Run:
    """The run saved at ``path``. Raises CheckpointError when the file is not one."""
    data = load_state_file(path)
    try:
        run = new_run(Recipe.from_dict(data["recipe"]))
        run.model.load_state_dict(data["model"])
        run.heads.load_state_dict(data["heads"])
        run.enter(data["phase"])
        run.optimiser.load_state_dict(data["optimiser"])
        run.step, run.seconds, run.log = int(data["step"]), float(data["seconds"]), list(data["log"])
    except Exception as error:
        raise CheckpointError(
            f"{str(path)!r} is not the state of a training run: {type(error).__name__}: {error}"
        ) from error
    return run
