"""Muon's orthogonalisation and the pair of optimisers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tinygptv_fast.errors import InvalidArgumentError
from tinygptv_fast.train.optimizers import Muon, MuonAdamW, orthogonalise


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 16, 40), (2, 40, 16)])
def test_singular_values_come_near_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    G = torch.randn(shape)
    out = orthogonalise(G)
    values = torch.linalg.svdvals(out)
    # The quintic is tuned for speed: it lands in a band around 1 (see the docstring), in bfloat16.
    assert out.shape == G.shape
    assert float(values.max()) < 1.35 and float(values.median()) > 0.6
    u, _, vh = torch.linalg.svd(G, full_matrices=False)
    assert float((out * (u @ vh)).sum() / (out.norm() * (u @ vh).norm())) > 0.95


def test_a_batch_is_its_members_alone() -> None:
    torch.manual_seed(1)
    G = torch.randn(3, 12, 20)
    together = orthogonalise(G)
    for one, row in zip(G, together, strict=True):
        assert torch.allclose(orthogonalise(one[None])[0], row, atol=2e-2)  # bfloat16 sums in another order


def test_both_kinds_of_parameter_learn() -> None:
    torch.manual_seed(2)
    layer = nn.Linear(8, 8)
    target = torch.randn(8, 8)
    optimiser = MuonAdamW(layer.named_parameters(), muon_lr=0.1, adam_lr=0.02)  # 200 falling steps can move 10
    x = torch.randn(256, 8)
    losses = []
    for step in range(200):
        loss = (layer(x) - (x @ target.T + 1)).square().mean()
        loss.backward()
        optimiser.step(1 - step / 200)
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]
    assert all(p.grad is None for p in layer.parameters())


def test_rate_zero_changes_nothing() -> None:
    layer = nn.Linear(4, 4)
    before = [p.clone() for p in layer.parameters()]
    optimiser = MuonAdamW(layer.named_parameters(), 0.1, 0.1)
    layer(torch.ones(2, 4)).sum().backward()
    optimiser.step(0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))


def test_muon_takes_matrices_only() -> None:
    with pytest.raises(InvalidArgumentError, match="expected matrices only"):
        Muon([nn.Parameter(torch.zeros(3))], lr=0.1)
    with pytest.raises(InvalidArgumentError, match="G_BNK is"):
        orthogonalise(torch.zeros(3, 3))
