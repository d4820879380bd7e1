"""One step of the optimiser: forward and backward in parts, the checks, the update. Of several processes each works
through its share of every part; what they compute together is what one alone would.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
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
from ..precision import precision_of
from ..shapes import TOKENS, padded, up
from .config import StageConfig
from .examples import Example
from .features import FrozenVision
from .rows import Row, RowMaker
from .sharding import Shared, local


@dataclass(frozen=True)
class Figures:
    """What a step did: mean loss per learnt token (or per weight), gradient's norm before clipping, rate, counts."""

    loss: float
    gradient: float
    lr: float
    tokens: int  # of text and pictures, padding apart
    learnt: int


_RANK_STRIDE = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: seeds of neighbouring ranks and steps never meet


@contextlib.contextmanager
def step_randomness(seed: int, step: int, rank: int = 0) -> Iterator[None]:
    """Dropout that is a function of (seed, step, rank) alone, and leaves the caller's random numbers as they were."""
    state = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        torch.manual_seed((seed * 1_000_003 + step + rank * _RANK_STRIDE) % (1 << 63))
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
    few = embeds.device.type == "cpu" and torch.is_autocast_enabled("cpu")  # in float32 nothing is compiled
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
    """Runs steps of ``config`` on ``model``; ``trained`` are its trained parameters by name, ``shared`` what binds this
    process to the others. Every process is given the whole batch and takes its share."""

    def __init__(
        self,
        config: StageConfig,
        model: TinyGPTVReference,
        rows: RowMaker,
        vision: FrozenVision,
        trained: dict[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        shared: Shared,
    ) -> None:
        self.config, self.model, self.rows, self.vision = config, model, rows, vision
        self.trained, self.optimizer = trained, optimizer
        self.shared, self.world = shared, shared.world
        shared.bind(self.loss)
        model.text.recompute = config.recompute

    def run(self, step: int, examples: Sequence[Example]) -> Figures:
        """One step. Weights are touched only after every check has passed; raises TrainingError before that."""
        if step % self.config.steps_per_repeat == 0:
            self.optimizer.state.clear()  # a repeat of the original is a new run: fresh moments
        lr = self.config.lr(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with self.world.agreeing():
            rows = self.rows.rows(examples, step)
            parts = self._parts(rows)
            if self.world.size > 1:  # a picture that cannot be read must be known before anybody waits for gradients
                self.vision.rows([image for part in parts for row in part for image in row.example.images])
        self.model.train()
        with step_randomness(self.config.seed, step, self.world.rank):
            loss = self._backward(parts, self.rows.total_weight(rows), step)
        if self.world.size > 1 and not any(row.example.images for row in rows):
            self.shared.forget_unseen()
        gradient = self._check_gradients(step)
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.trained.values(), self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        queries = self.model.config.qformer.queries if self.model.config.qformer is not None else 0
        tokens = sum(row.length + queries * len(row.example.images) for row in rows)
        return Figures(loss, gradient, lr, tokens, sum(row.learnt for row in rows))

    def _backward(self, parts: Sequence[Sequence[Row]], total: float, step: int) -> float:
        """Gradients of the whole batch's loss, which is returned; ``parts`` are this process's."""
        loss = 0.0
        for index, part in enumerate(parts):
            with self.shared.quiet(more=index + 1 < len(parts)):
                value = self.shared.loss(part, total)
                known = self.world.sum(value.item())  # before the backward pass, in which a NaN would reach everybody
                if not math.isfinite(known):
                    what = self._first_bad(part, total)
                    raise self.world.same(TrainingError(f"step {step}: the loss is {known}: {what}"))
                (value * self.world.size).backward()  # DDP and FSDP divide by the number of processes
            loss += known
        return loss

    def _parts(self, rows: Sequence[Row]) -> list[Sequence[Row]]:
        """This process's share of ``accumulation`` parts of rows of like length, so that short ones are not padded to
        long ones. The losses of all parts and processes add up to that of the whole batch."""
        count, parts = self.config.accumulation, [rows]
        if count > 1:
            ordered = sorted(rows, key=lambda row: row.length)
            cuts = [index * len(ordered) // count for index in range(count + 1)]
            parts = [ordered[start:end] for start, end in itertools.pairwise(cuts)]
        return [part[self.world.rank :: self.world.size] for part in parts]

    def loss(self, rows: Sequence[Row], total: float | None = None) -> Tensor:
        """The loss of ``rows`` over ``total`` weight (default: their own)."""
        device = self.model.text.embed.weight.device
        enabled = precision_of(self.config, device) == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            batch = self.rows.batch(rows, self._visual(rows))
            if self.world.size > 1 and not any(row.example.images for row in rows):
                batch = dataclasses.replace(batch, inputs_embeds=batch.inputs_embeds + self.shared.unseen())
            weights = self.rows.weights(rows, batch.labels)
            whole = self.rows.total_weight(rows) if total is None else total
            sigma, coordinate, numbers = self.config.coordinate_sigma, None, None
            if sigma > 0:
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
        norms = self.shared.norms({n: p.grad for n, p in reversed(self.trained.items()) if p.grad is not None})
        whole = math.sqrt(sum(norm * norm for norm in norms.values()))
        if math.isfinite(whole) and whole <= self.config.gradient_limit:
            return whole
        self.optimizer.zero_grad(set_to_none=True)
        for name, norm in norms.items():
            if not math.isfinite(norm):
                text = f"step {step}: the gradient of {name} holds NaN or infinity; nothing was updated"
                raise self.world.same(TrainingError(text))
        worst = max(norms, key=lambda name: norms[name])
        text = (
            f"step {step}: the gradient's norm is {whole:.3g}, above gradient_limit={self.config.gradient_limit:g}; "
            f"the largest is of {worst}, {norms[worst]:.3g}; nothing was updated"
        )
        raise self.world.same(TrainingError(text))

    def _first_bad(self, rows: Sequence[Row], total: float) -> str:
        """The first tensor, in the order of computation, that is not finite: a weight, or what a module returns; and of
        several processes, in which. Every process must ask."""
        found = self.world.gather(self._bad_weight())
        if not any(found):  # else one process could go through the model alone, which under FSDP waits for ever
            found = self.world.gather(self._bad_output(rows, total))
        for rank, text in enumerate(found):
            if text:
                return text if self.world.size == 1 else f"{text} (process {rank} of {self.world.size})"
        return "every module's output is finite"

    def _bad_weight(self) -> str:
        for name, tensor in [*self.model.named_parameters(), *self.model.named_buffers()]:
            if not bool(torch.isfinite(local(tensor)).all()):
                return f"weight {name} holds NaN or infinity"
        return ""

    @torch.no_grad()
    def _bad_output(self, rows: Sequence[Row], total: float) -> str:
        bad: list[str] = []

        def hook(name: str) -> object:
            def look(_module: nn.Module, _inputs: object, output: object) -> None:
                if not bad and isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                    bad.append(name)

            return look

        hooks = [m.register_forward_hook(hook(n)) for n, m in self.model.named_modules() if n]
        try:
            self.shared.loss(rows, total)
        finally:
            for each in hooks:
                each.remove()
        return f"the output of {bad[0]} is the first that is not finite" if bad else ""
