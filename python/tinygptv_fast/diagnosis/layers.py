"""Runs a model layer by layer over a whole set of inputs, holding one layer's weights at a time.

The arithmetic is the reference's own modules. Knows weight sources and hidden states; not files, prompts or errors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..reference.phi import PhiLayer, causal_mask, rotary_tables
from ..reference.projector import Projector
from ..reference.qformer import QFormerLayer
from ..reference.vision import VisionLayer, VisionTower
from .weights import WeightSource, build

Step = tuple[str, list[Tensor]]
"""A name, and the state of every input after it. Consumers must not change the tensors."""

_HEAD_ROWS = 16_384  # rows of the head at a time: 168 MB of float32 at full width


@dataclass(frozen=True)
class TextInput:
    """One prompt: token ids around the pictures (len(pictures) + 1 segments), and which positions are judged.

    ``pictures`` are indices into the set's pictures. ``judged`` are positions whose next token is looked at, counted
    over visual tokens and text alike.
    """

    segments: tuple[tuple[int, ...], ...]
    pictures: tuple[int, ...]
    judged: tuple[int, ...]


@torch.no_grad()
def walk_vision(source: WeightSource, pixels: list[Tensor]) -> Iterator[Step]:
    """pixels: float32 [3, S, S] each. Yields 'vision.embed', every layer, and last 'projector': [NQ, C] each."""
    vision, qformer = source.config.vision, source.config.qformer
    assert vision is not None and qformer is not None  # for the type checker; callers have a vision model
    states = _embed_pictures(source, pixels)
    yield "vision.embed", states
    for index in range(vision.layers):
        name = f"vision.layers.{index}"
        states = _apply(build(lambda: VisionLayer(vision), name, source), states)
        yield name, states
    states = _apply(build(lambda: nn.LayerNorm(vision.width, eps=vision.ln_vision_eps), "ln_vision", source), states)
    yield "ln_vision", states
    norm = build(lambda: nn.LayerNorm(qformer.width, eps=qformer.norm_eps), "qformer.norm", source)
    queries = norm(source.tensor("qformer.query_tokens"))[None]
    pictures, states = states, [queries] * len(states)
    for index in range(qformer.layers):
        name = f"qformer.layers.{index}"
        layer = build(lambda index=index: QFormerLayer(qformer, vision.width, index), name, source)  # type: ignore[misc]
        states = [layer(x, picture) for x, picture in zip(states, pictures, strict=True)]
        yield name, states
    projector = build(lambda: Projector(qformer.width, source.config.text.width), "projector", source)
    yield "projector", [projector(x)[0] for x in states]


@torch.no_grad()
def walk_text(source: WeightSource, inputs: list[TextInput], visual: list[Tensor]) -> Iterator[Step]:
    """visual: [NQ, C] of each picture. Yields ('text.embed', [T, C] each), every layer, and last 'text.final_norm'."""
    text = source.config.text
    states = [x[None] for x in _embed_prompts(source, inputs, visual)]
    yield "text.embed", [x[0] for x in states]
    for index in range(text.layers):
        name = f"text.layers.{index}"
        layer = build(lambda: PhiLayer(text, None), name, source)
        states = [_run_text_layer(layer, x, source) for x in states]
        del layer
        yield name, [x[0] for x in states]
    norm = build(lambda: nn.LayerNorm(text.width, eps=text.norm_eps), "text.final_norm", source)
    yield "text.final_norm", [norm(x)[0] for x in states]


@torch.no_grad()
def judged_logits(source: WeightSource, inputs: list[TextInput], hidden: list[Tensor]) -> list[Tensor]:
    """Logits float32 [judged, V] of every prompt from its states [T, C] after the final norm."""
    picked = torch.cat([x[list(one.judged)] for x, one in zip(hidden, inputs, strict=True)])
    vocabulary, bias = source.config.text.vocab_size, source.tensor("text.head.bias")
    logits = torch.empty(picked.shape[0], vocabulary)
    for start in range(0, vocabulary, _HEAD_ROWS):
        stop = min(start + _HEAD_ROWS, vocabulary)
        weight = source.rows("text.head.weight", range(start, stop))
        logits[:, start:stop] = nn.functional.linear(picked, weight, bias[start:stop])
    return list(logits.split([len(one.judged) for one in inputs]))


def _embed_pictures(source: WeightSource, pixels: list[Tensor]) -> list[Tensor]:
    config = source.config.vision
    assert config is not None
    with torch.device("meta"):
        tower = VisionTower(dataclasses.replace(config, layers=1))
    names = [name for name in tower.state_dict() if not name.startswith("layers.")]
    state = {name: source.tensor(f"vision.{name}") for name in names}
    tower.load_state_dict(state, strict=False, assign=True)
    return [tower.embed(x[None]) for x in pixels]


def _apply(module: nn.Module, states: list[Tensor]) -> list[Tensor]:
    return [module(x) for x in states]


def _embed_prompts(source: WeightSource, inputs: list[TextInput], visual: list[Tensor]) -> list[Tensor]:
    used = sorted({i for one in inputs for segment in one.segments for i in segment})
    table = source.rows("text.embed.weight", used)
    place = {token: row for row, token in enumerate(used)}
    out = []
    for one in inputs:
        parts = []
        for index, segment in enumerate(one.segments):
            parts.append(table[[place[i] for i in segment]])
            if index < len(one.pictures):
                parts.append(visual[one.pictures[index]])
        out.append(torch.cat(parts))
    return out


def _run_text_layer(layer: PhiLayer, x: Tensor, source: WeightSource) -> Tensor:
    text, T = source.config.text, x.shape[1]
    rotary = rotary_tables(torch.arange(T), text.rotary_dims, text.rope_theta)
    return layer(x, rotary, causal_mask(None, T, T, x.device), None, 0)
