"""V5: the Q-Former alone, on patches that were kept of many pictures.

Which row stands for what is learnt slowest of all that the vision side learns: after V4 something in plain sight has no
row in every fourth of the pictures that counting is asked of. Most of a step's time is the tower's, so its patches are
kept once and the Q-Former goes over them again and again. The pictures are not those of the stages: rows that are
better because the picture was met before must not be what the language model learns from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.randomness import generator
from ..heads import Labels, seeing_loss
from ..optimizers import MuonAdamW
from ..precision import autocast
from .cache import Cache, open_patches
from .loop import Session, run_phase
from .pictures import scenes_of, things_of
from .recipe import KEPT, SEEING, SHOWN, DemoRecipe
from .seeing import Seeing

_STREAM = 12  # apart from those of telling, looking and stages
_PHASE = SEEING[-1]
_TOKENS = "qformer.query_tokens"
_APART = 0.5  # of the tokens' own spread
_SMALL, _LARGE = "full", SHOWN[_PHASE]


@dataclass(frozen=True)
class Met:
    """Which kept pictures a step meets, of which file: each once before any comes again, in an order of its own."""

    recipe: DemoRecipe

    def __call__(self, step: int) -> tuple[str, np.ndarray]:
        """(file, int64 [n]); as ``seeing.Drawn``, every fourth step has small pictures, and twice as many."""
        recipe, often = self.recipe, self.recipe.small_every
        many = recipe.v5.pictures
        if recipe.is_small(step):
            return _SMALL, self._some(_SMALL, step // often * 2 * many, 2 * many)
        return _LARGE, self._some(_LARGE, (step - step // often) * many, many)

    def _some(self, shown: str, first: int, many: int) -> np.ndarray:
        total = self.recipe.cached(KEPT)[shown]
        number = (_SMALL, _LARGE).index(shown)
        rounds = range(first // total, (first + many - 1) // total + 1)
        orders = [generator(self.recipe.seed, _STREAM, number, one).permutation(total) for one in rounds]
        return np.concatenate(orders)[first % total :][:many]


class Attending(Seeing):
    """The learner of the phase: the Q-Former and the heads on its rows learn, the tower and its cells stay."""

    def __init__(self, recipe: DemoRecipe, device: torch.device, kept: Mapping[str, tuple[Cache, Labels]]) -> None:
        super().__init__(recipe, _PHASE, device, recipe.queries)
        self.kept, self.made = kept, Met(recipe)
        named = [(f"qformer.{name}", p) for name, p in self.eyes.qformer.named_parameters()]
        named += [(f"heads.{n}", p) for n, p in self.heads.named_parameters() if not n.startswith("cells.")]
        self.optimiser = MuonAdamW(named, self.settings.muon_lr, self.settings.adam_lr)

    def begin(self, weights: dict[str, Any]) -> None:
        """As ``Seeing.begin``; what V4 has too few queries, twins of its own make up."""
        eyes = dict(weights["eyes"])
        eyes[_TOKENS] = widened(eyes[_TOKENS], self.recipe.queries, self.recipe.seed)
        super().begin({**weights, "eyes": eyes})

    def step(self, step: int) -> dict[str, float]:
        shown, pictures = self.made(step)
        cache, labels = self.kept[shown]
        patches: Tensor = cache.some(pictures).to(self.device)
        named = labels.of(torch.from_numpy(pictures)).to(self.device)
        with autocast(self.device):
            loss = seeing_loss(self.heads, None, self.eyes.qformer(patches.float()), named)
        loss.total.backward()
        return self.learn(step, loss)


def widened(queries: Tensor, number: int, seed: int) -> Tensor:
    """``queries`` [n, Q] and behind them a twin of each, up to [number, Q]: the same and some noise.

    A softmax over keys that are all there twice is the softmax over them once, so the first rows begin as they were but
    for the noise, and that is what parts the twins.
    """
    n, Q = queries.shape
    if number <= n:
        return queries
    noise = torch.randn(number - n, Q, generator=torch.Generator().manual_seed(seed)).to(queries)
    return torch.cat([queries, queries.repeat(-(-number // n), 1)[n:number] + _APART * queries.std() * noise])


def attend(session: Session) -> None:
    """Run phase "v5"."""
    recipe = session.recipe
    kept = {shown: (open_patches(session, shown), labels_kept(recipe, shown)) for shown in (_SMALL, _LARGE)}
    learner = Attending(recipe, session.device, kept)
    learner.begin(session.weights("v4"))
    run_phase(session, _PHASE, learner, learner.settings.steps, ("v4", KEPT), learner.weights)


def labels_kept(recipe: DemoRecipe, shown: str) -> Labels:
    """What there is on the kept pictures of a file."""
    return things_of(scenes_of(recipe, shown, 0, range(recipe.cached(KEPT)[shown])))
