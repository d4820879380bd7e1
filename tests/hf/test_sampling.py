"""Sampling: the loop draws what torch draws; the engine draws from the same distribution with seeds of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PhiForCausalLM

from hf.support import V, prompts
from tinygptv_fast.hf.model import AcceleratedPhi

FILTERS: list[dict[str, Any]] = [
    {"temperature": 0.7, "top_k": 0},
    {"temperature": 1.5, "top_k": 12, "top_p": 0.9},
    {"top_k": 0, "top_p": 0.8, "repetition_penalty": 1.3},
    {"temperature": 1.2, "top_k": 0, "min_p": 0.05, "min_new_tokens": 2},
]


def draw(model: Any, count: int, seed: int, **keywords: Any) -> Tensor:
    torch.manual_seed(seed)
    given = {"do_sample": True, "max_new_tokens": 6, "num_return_sequences": count, **keywords}
    return model.generate(prompts("one").ids, **given)


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_the_loop_draws_what_torch_draws(filters: dict[str, Any], phi: PhiForCausalLM, accelerated: Any) -> None:
    accelerated.native = False
    for seed in range(3):
        assert torch.equal(draw(accelerated, 4, seed, **filters), draw(phi, 4, seed, **filters))


def test_sampling_with_beams_draws_what_torch_draws(phi: PhiForCausalLM, accelerated: AcceleratedPhi) -> None:
    assert torch.equal(draw(accelerated, 2, 5, num_beams=3), draw(phi, 2, 5, num_beams=3))


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_the_engine_draws_from_the_same_distribution(
    filters: dict[str, Any], phi: PhiForCausalLM, accelerated: AcceleratedPhi
) -> None:
    count, given = 600, {**filters, "max_new_tokens": 1}
    given.pop("min_new_tokens", None)
    torch.manual_seed(0)
    result = phi.generate(prompts("one").ids, do_sample=True, return_dict_in_generate=True, output_scores=True, **given)
    expected = result.scores[0][0].softmax(-1) * count
    drawn = draw(accelerated, count, 1, **given)[:, -1].bincount(minlength=V).float()
    assert accelerated.last_route == "native"
    assert float(drawn[expected == 0].sum()) == 0
    # chi-square with rare ids lumped together: its mean is the number of classes, its variance twice that
    often = expected >= 5
    classes = [(drawn[often], expected[often]), (drawn[~often].sum()[None], expected[~often].sum()[None])]
    statistic = sum(float(((a - b) ** 2 / b.clamp(min=1e-9))[b > 0].sum()) for a, b in classes)
    degrees = int(often.sum())
    assert statistic < degrees + 5 * (2 * degrees) ** 0.5 + 5


def test_torch_seeds_repeat_what_the_engine_draws(accelerated: AcceleratedPhi) -> None:
    first, again, other = (draw(accelerated, 5, seed, temperature=1.5) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len({tuple(row) for row in first.tolist()}) > 1  # rows have seeds of their own
