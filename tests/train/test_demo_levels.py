"""Levels that make up for each other's errors: what is left of the language model, and what they are chosen for."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from tinygptv_fast.config import ModelConfig
from tinygptv_fast.reference.model import TinyGPTVReference
from tinygptv_fast.reference.phi import PhiBackbone
from tinygptv_fast.train.demo.finish import as_shipped
from tinygptv_fast.train.demo.levels import Sample, choose_levels
from tinygptv_fast.train.demo.recipe import SHIPPED, TINY

RECIPE = dataclasses.replace(TINY, text_layers=2, text_mlp=96)
CONFIG: ModelConfig = dataclasses.replace(RECIPE.model_config(RECIPE.large_size), quantization=SHIPPED)


@pytest.fixture(scope="module")
def text() -> PhiBackbone:
    torch.manual_seed(5)
    return TinyGPTVReference(CONFIG).text.requires_grad_(False)


def samples(seed: int = 0, rows: int = 12, answered: int = 40) -> list[Sample]:
    """Rows of 48 with few directions among them, as rows of a picture have; nobody reads beyond ``answered``."""
    random = torch.Generator().manual_seed(seed)
    width, few = CONFIG.text.width, 10
    directions = torch.randn(few, width, generator=torch.Generator().manual_seed(99))
    out = []
    for _ in range(rows):
        embeds = torch.randn(4, 48, few, generator=random) @ directions + 0.1 * torch.randn(
            4, 48, width, generator=random
        )
        answer = torch.zeros(4, 48, dtype=torch.bool)
        answer[:, answered - 6 : answered] = True
        read = torch.arange(48) < answered
        out.append(Sample(embeds, torch.where(answer, 4.0, 1.0) * read, answer))
    return out


def text_matrices(text: PhiBackbone) -> dict[str, torch.Tensor]:
    return {f"text.{name}": p for name, p in text.named_parameters() if p.ndim == 2 and "embed" not in name}


def rounded(text: PhiBackbone) -> PhiBackbone:
    """Each matrix by itself, to nearest levels."""
    out = copy.deepcopy(text)
    for name, p in text_matrices(out).items():
        p.copy_(as_shipped(name, p, CONFIG))
    return out


def divergence(text: PhiBackbone, other: PhiBackbone, asked: list[Sample]) -> float:
    """Mean over the tokens of answers."""
    total = 0.0
    for sample in asked:
        said = [model.logits(model(sample.embeds)[sample.answer]).log_softmax(-1) for model in (text, other)]
        total += float((said[0].exp() * (said[0] - said[1])).sum(-1).mean())
    return total / len(asked)


def test_answers_lose_less_than_by_nearest_levels(text: PhiBackbone) -> None:
    chosen, heard = copy.deepcopy(text), []
    choose_levels(chosen, samples(), CONFIG, heard.append)
    assert heard == list(range(1, 4 * RECIPE.text_layers + 2))
    others = samples(seed=1)  # not those that levels were chosen for
    assert divergence(text, chosen, others) < 0.6 * divergence(text, rounded(text), others)


def test_what_is_left_is_what_will_be_shipped(text: PhiBackbone) -> None:
    chosen = copy.deepcopy(text)
    choose_levels(chosen, samples(rows=3), CONFIG)
    for name, p in text_matrices(chosen).items():
        assert torch.equal(as_shipped(name, p, CONFIG), p), name
    matrices = text_matrices(chosen)
    others = {name: p for name, p in chosen.named_parameters() if f"text.{name}" not in matrices}
    assert all(torch.equal(p, text.get_parameter(name)) for name, p in others.items())


def test_what_nobody_reads_counts_for_nothing(text: PhiBackbone) -> None:
    plain, changed = samples(rows=3), []
    for sample in plain:
        embeds = sample.embeds.clone()
        embeds[:, 40:] = 100.0  # behind the last answer: causal attention never looks there
        changed.append(dataclasses.replace(sample, embeds=embeds))
    models = [copy.deepcopy(text) for _ in range(2)]
    for model, given in zip(models, (plain, changed), strict=True):
        choose_levels(model, given, CONFIG)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))
