"""Muon for matrices, AdamW for everything else, under one schedule.

Muon (K. Jordan et al., 2024): momentum, then the nearest orthogonal matrix to it, found approximately by a quintic
Newton-Schulz iteration, as the step. Matrices of one shape are orthogonalised together, as one batched product.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InvalidArgumentError
from .precision import best_precision

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic; chosen by Muon's authors for fast growth of small values


def orthogonalise(G_BNK: Tensor, steps: int = 5) -> Tensor:
    """f32 [B, N, K] → f32 [B, N, K] whose singular values are near 1 (within about 0.7..1.2)."""
    if G_BNK.ndim != 3:
        raise InvalidArgumentError(f"G_BNK is {list(G_BNK.shape)}, expected [B,N,K]")
    a, b, c = _COEFFICIENTS
    tall = G_BNK.shape[1] > G_BNK.shape[2]
    X = (G_BNK.transpose(1, 2) if tall else G_BNK).to(getattr(torch, best_precision(G_BNK.device)))
    X = X / (X.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        A = X @ X.transpose(1, 2)
        X = a * X + (b * A + c * A @ A) @ X
    return (X.transpose(1, 2) if tall else X).float()


class Muon(torch.optim.Optimizer):
    """Muon over 2-D parameters. ``lr`` is per unit of spectral norm, times sqrt(max(1, rows/columns))."""

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        params = list(params)
        wrong = [list(p.shape) for p in params if p.ndim != 2]
        if wrong:
            raise InvalidArgumentError(f"params has shapes {wrong}, expected matrices only")
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for shape, params in shapes.items():
                update = orthogonalise(torch.stack([self._momentum(p, group["momentum"]) for p in params]))
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for p, u in zip(params, update, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(u, alpha=-scale)

    def _momentum(self, p: nn.Parameter, momentum: float) -> Tensor:
        """Nesterov's look-ahead on the running mean of gradients."""
        assert p.grad is not None
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(state["momentum"], momentum)


class MuonAdamW:
    """Both optimisers behind one ``step(rate)``; ``rate`` 0..1 multiplies the two base learning rates."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], muon_lr: float, adam_lr: float) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, p in named:
            # Tables and the two ends of the model are not linear maps between hidden spaces: AdamW suits them better.
            table = any(word in name for word in ("embed", "tokens", "text.head", "heads."))
            (matrices if p.ndim == 2 and not table else others).append(p)
        self.parameters = matrices + others
        self._parts: list[tuple[torch.optim.Optimizer, float]] = []
        if matrices:
            self._parts.append((Muon(matrices, muon_lr), muon_lr))
        if others:
            self._parts.append((torch.optim.AdamW(others, adam_lr, betas=(0.9, 0.98), weight_decay=0.0), adam_lr))

    def step(self, rate: float) -> None:
        """Clip the gradient's norm to 1 for AdamW's part alone (Muon's step has a fixed size), step, clear."""
        for optimiser, base in self._parts:
            for group in optimiser.param_groups:
                group["lr"] = base * rate
                if isinstance(optimiser, torch.optim.AdamW):
                    nn.utils.clip_grad_norm_(group["params"], 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimiser.state_dict() for optimiser, _ in self._parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for (optimiser, _), state in zip(self._parts, states, strict=True):
            optimiser.load_state_dict(state)
