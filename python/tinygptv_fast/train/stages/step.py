"""One step of the optimiser: forward and backward in parts, the checks, the update."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import TrainingError
from ...reference.layout import TrainingBatch
from ...reference.loss import IGNORE
from ...reference.model import TinyGPTVReference
from ..coordinates import blurred_cross_entropy
from ..shapes import TOKENS, padded, up
from .config import StageConfig
from .examples import Example
from .features import FrozenVision
from .rows import Row, RowMaker


@dataclass(frozen=True)
class Figures:
    """What a step did: mean loss per learnt token (or per weight), gradient's norm before clipping, rate, counts."""

    loss: float
    gradient: float
    lr: float
    tokens: int  # of text and pictures, padding apart
    learnt: int


@contextlib.contextmanager
def step_randomness(seed: int, step: int) -> Iterator[None]:
    """Dropout that is a function of (seed, step) alone, and leaves the caller's random numbers as they were."""
    state = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        torch.manual_seed((seed * 1_000_003 + step) % (1 << 63))
        yield
    finally:
        torch.set_rng_state(state)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def weighted_loss(
    model: TinyGPTVReference,
    batch: TrainingBatch,
    weights: Tensor,
    total: float,
    coordinate: Tensor | None = None,
    numbers: Tensor | None = None,
    sigma: float = 0.0,
) -> Tensor:
    """Sum of weight · cross-entropy over ``total``: the original's loss where all weights are 1.

    Logits are made only where something is learnt; the mean of ``reference.causal_lm_loss`` over the same positions.
    weights f32 [B, T]. coordinate bool [B, T-1]: which of the labels from the second on are coordinates, whose labels
    are Gaussians of width ``sigma`` over the tokens ``numbers`` of 0..100.
    """
    embeds, mask = batch.inputs_embeds, batch.attention_mask
    T = embeds.shape[1]
    few = torch.is_autocast_enabled(embeds.device.type)  # in float32 nothing is compiled, and every bit stays
    if few:
        more = min(up(T, TOKENS), model.text.config.max_positions) - T
        embeds, mask = F.pad(embeds, (0, 0, 0, more)), F.pad(mask, (0, more))
    hidden = model.text(embeds, mask)[:, : T - 1]
    target, weight = batch.labels[:, 1:], weights[:, 1:]
    learnt = target != IGNORE
    found = hidden[learnt]
    logits = model.text.logits(padded(found) if few else found)[: len(found)]
    if coordinate is None or numbers is None:
        losses = F.cross_entropy(logits, target[learnt], reduction="none")
    else:
        losses = blurred_cross_entropy(logits, target[learnt], coordinate[learnt], numbers, sigma)
    return (losses @ weight[learnt]) / total


class Stepper:
    """Runs steps of ``config`` on ``model``; ``trained`` are its trained parameters by name."""

    def __init__(
        self,
        config: StageConfig,
        model: TinyGPTVReference,
        rows: RowMaker,
        vision: FrozenVision,
        trained: dict[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.config, self.model, self.rows, self.vision = config, model, rows, vision
        self.trained, self.optimizer = trained, optimizer
        model.text.recompute = config.recompute

    def run(self, step: int, examples: Sequence[Example]) -> Figures:
        """One step. Weights are touched only after every check has passed; raises TrainingError before that."""
        if step % self.config.steps_per_repeat == 0:
            self.optimizer.state.clear()  # a repeat of the original is a new run: fresh moments
        lr = self.config.lr(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        rows = self.rows.rows(examples, step)
        self.model.train()
        with step_randomness(self.config.seed, step):
            loss = self._backward(rows, step)
        gradient = self._check_gradients(step)
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.trained.values(), self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        queries = self.model.config.qformer.queries if self.model.config.qformer is not None else 0
        tokens = sum(row.length + queries * len(row.example.images) for row in rows)
        return Figures(loss, gradient, lr, tokens, sum(row.learnt for row in rows))

    def _backward(self, rows: Sequence[Row], step: int) -> float:
        total, loss = self.rows.total_weight(rows), 0.0
        for part in self._parts(rows):
            value = self.loss(part, total)
            if not math.isfinite(value.item()):
                raise TrainingError(f"step {step}: the loss is {value.item()}: {self._first_bad_output(part, total)}")
            value.backward()
            loss += value.item()
        return loss

    def _parts(self, rows: Sequence[Row]) -> list[Sequence[Row]]:
        """``accumulation`` parts of rows of like length, so that short ones are not padded to long ones. Their losses
        add up to that of the whole batch."""
        if self.config.accumulation == 1:
            return [rows]
        ordered = sorted(rows, key=lambda row: row.length)
        size = -(-len(ordered) // self.config.accumulation)
        return [ordered[start : start + size] for start in range(0, len(ordered), size)]

    def loss(self, rows: Sequence[Row], total: float | None = None) -> Tensor:
        """The loss of ``rows`` over ``total`` weight (default: their own)."""
        device = self.model.text.embed.weight.device
        enabled = self.config.precision == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            batch = self.rows.batch(rows, self._visual(rows))
            weights = self.rows.weights(rows, batch.labels)
            whole = self.rows.total_weight(rows) if total is None else total
            sigma = self.config.coordinate_sigma
            if sigma == 0:
                return weighted_loss(self.model, batch, weights, whole)
            coordinate, numbers = self.rows.coordinates(batch.labels), self.rows.numbers.to(batch.labels.device)
            return weighted_loss(self.model, batch, weights, whole, coordinate, numbers, sigma)

    def _visual(self, rows: Sequence[Row]) -> list[list[Tensor]]:
        """Visual tokens [NQ, C] of each row's pictures: cached rows through what is trained."""
        images = [image for row in rows for image in row.example.images]
        if not images:
            return [[] for _ in rows]
        device = self.model.text.embed.weight.device
        seen = torch.stack(self.vision.rows(images)).to(device)
        if self.config.qformer:
            seen = self.model.qformer(seen)
        visual = iter(self.model.projector(seen).float())
        return [[next(visual) for _ in row.example.images] for row in rows]

    # -- what went wrong -------------------------------------------------------------------------------------------

    def _check_gradients(self, step: int) -> float:
        """The norm of the whole gradient. Raises TrainingError naming the first tensor, in the order the gradient
        reaches them, that holds a NaN, or the largest one where the norm passes the limit."""
        norms = {name: p.grad.norm().item() for name, p in reversed(self.trained.items()) if p.grad is not None}
        whole = math.sqrt(sum(norm * norm for norm in norms.values()))
        if math.isfinite(whole) and whole <= self.config.gradient_limit:
            return whole
        self.optimizer.zero_grad(set_to_none=True)
        for name, norm in norms.items():
            if not math.isfinite(norm):
                raise TrainingError(f"step {step}: the gradient of {name} holds NaN or infinity; nothing was updated")
        worst = max(norms, key=lambda name: norms[name])
        raise TrainingError(
            f"step {step}: the gradient's norm is {whole:.3g}, above gradient_limit={self.config.gradient_limit:g}; "
            f"the largest is of {worst}, {norms[worst]:.3g}; nothing was updated"
        )

    @torch.no_grad()
    def _first_bad_output(self, rows: Sequence[Row], total: float) -> str:
        """The first tensor, in the order of computation, that is not finite: a weight, or what a module returns."""
        for name, tensor in [*self.model.named_parameters(), *self.model.named_buffers()]:
            if not bool(torch.isfinite(tensor).all()):
                return f"weight {name} holds NaN or infinity"
        bad: list[str] = []

        def hook(name: str) -> object:
            def look(_module: nn.Module, _inputs: object, output: object) -> None:
                if not bad and isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                    bad.append(name)

            return look

        hooks = [m.register_forward_hook(hook(n)) for n, m in self.model.named_modules() if n]
        try:
            self.loss(rows, total)
        finally:
            for each in hooks:
                each.remove()
        return f"the output of {bad[0]} is the first that is not finite" if bad else "every module's output is finite"
