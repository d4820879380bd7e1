"""Numbers as quantities: tokens that start in order, and coordinate labels that forgive their neighbours.

A wrong coordinate is nearly right when it is one hundredth off. Cross-entropy does not know that: it gets labels that
are Gaussians over the neighbouring integers, and number rows of the tables that are near where numbers are near.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.bpe import NUMBERS
from ..errors import InvalidArgumentError
from ..processing.tokenizer import Tokenizer
from ..reference.model import TinyGPTVReference

BOX_MARKS = ("{<", "><")  # what stands before a coordinate


def number_tokens(tokenizer: Tokenizer) -> list[int]:
    """Ids of 0..100. Raises InvalidArgumentError for a tokenizer in which one of them is not a single token."""
    out = []
    for number in NUMBERS:
        ids = tokenizer.encode(str(number))
        if len(ids) != 1:
            raise InvalidArgumentError(f"{number} is {len(ids)} tokens of this tokenizer, expected one")
        out.append(ids[0])
    return out


def mark_tokens(tokenizer: Tokenizer) -> list[int]:
    """Ids of the marks in front of coordinates. Raises InvalidArgumentError where one is not a single token."""
    out = []
    for mark in BOX_MARKS:
        token = tokenizer.token_id(mark)
        if token is None:
            raise InvalidArgumentError(f"{mark!r} is not a token of this tokenizer, expected one")
        out.append(token)
    return out


def find_coordinates(labels: Tensor, before: Tensor, numbers: Tensor, marks: Tensor) -> Tensor:
    """Whether each of ``labels`` is a coordinate: a number behind a mark. ``before``: the label before each. bool."""
    return torch.isin(labels, numbers) & torch.isin(before, marks)


def blurred_cross_entropy(logits: Tensor, labels: Tensor, coordinate: Tensor, numbers: Tensor, sigma: float) -> Tensor:
    """Cross-entropy f32 [n] of ``labels`` int64 [n] under ``logits`` f32 [n, V]; those that are ``coordinate`` bool [n]
    count as Gaussians of standard deviation ``sigma`` (in hundredths of the side) over ``numbers`` int64 [101]."""
    if sigma <= 0:
        return F.cross_entropy(logits, labels, reduction="none")
    value = torch.full((logits.shape[1],), -1, device=labels.device)
    value[numbers] = torch.arange(len(numbers), device=labels.device)
    scale = torch.arange(len(numbers), device=labels.device, dtype=torch.float32)
    wanted = (-((scale[None] - value[labels[coordinate], None]) ** 2) / (2 * sigma**2)).softmax(-1)
    mine = logits[coordinate]
    blurred = mine.logsumexp(-1) - (wanted * mine[:, numbers]).sum(-1)
    out = torch.empty(len(labels), device=logits.device)
    out[~coordinate] = F.cross_entropy(logits[~coordinate], labels[~coordinate], reduction="none")
    out[coordinate] = blurred
    return out


def start_numbers(model: TinyGPTVReference, numbers: list[int]) -> None:
    """Give the number rows of the embedding and the head an order: Fourier features of v/100 instead of noise."""
    value = torch.tensor(list(NUMBERS), dtype=torch.float32) / 100
    C = model.config.text.width
    waves = torch.arange(1, C // 2 + 1, dtype=torch.float32) * math.pi / 8  # half a wave over 0..1 up to C/32 waves
    angles = value[:, None] * waves
    fall = 1 / (1 + waves / math.pi)  # slow waves large: near numbers stay near
    features = torch.cat([angles.cos() * fall, angles.sin() * fall], dim=1)
    features = features - features.mean(0)
    features = features / features.pow(2).mean().sqrt()
    with torch.no_grad():
        for table in (model.text.embed.weight, model.text.head.weight):
            table[numbers] = (features * table.std()).to(table.device)
