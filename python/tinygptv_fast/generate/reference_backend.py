"""Decodes with the reference modules: exact, slow, and the only backend so far."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..checkpoint.directory import ModelDirectory
from ..conversion import load_state
from ..errors import UnsupportedError
from ..reference import GenerationOptions, TinyGPTVReference, generate
from ..reference.generation import GenerationStep, decode_steps

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class ReferenceBackend:
    """The model of a directory in plain torch, dequantised to ``dtype``. One request at a time; thread-safe."""

    name = "reference"

    def __init__(self, directory: ModelDirectory, dtype: str, *, vision: bool) -> None:
        config = directory.config if vision else replace(directory.config, vision=None, qformer=None)
        state = load_state(directory)
        if not vision:
            state = {name: tensor for name, tensor in state.items() if name.startswith("text.")}
        with torch.device("meta"):
            model = TinyGPTVReference(config)
        self.dtype = DTYPES[dtype]
        tensors = {name: tensor.to(self.dtype) for name, tensor in state.items()}
        model.load_state_dict(tensors, strict=True, assign=True)
        self.model = model.eval().requires_grad_(False)
        self._lock = threading.Lock()

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> Tensor:
        """pixels f32 [3, S, S] → visual tokens f32 [NQ, C]. Raises UnsupportedError without a vision tower."""
        if self.model.config.vision is None:
            raise UnsupportedError("this model was loaded without its vision tower: give an ImageState or no image")
        with self._lock:
            return self.model.encode_image(pixels[None].to(self.dtype))[0].float()

    @torch.no_grad()
    def embed(self, segments: list[list[int]], images: list[Tensor]) -> Tensor:
        """Token segments and pictures interleaved → [T, C]."""
        parts = []
        for index, ids in enumerate(segments):
            parts.append(self.model.text.embed(torch.tensor(ids, dtype=torch.int64)))
            if index < len(images):
                parts.append(images[index].to(self.dtype))
        return torch.cat(parts)

    @torch.no_grad()
    def logits(self, inputs_embeds: Tensor) -> Tensor:
        """[T, C] → f32 [T, V]."""
        with self._lock:
            return self.model.text.logits(self.model.text(inputs_embeds[None]))[0]

    def steps(self, inputs_embeds: Tensor, options: GenerationOptions) -> Iterator[GenerationStep]:
        """Greedy or sampled decoding of [T, C], one step per item, ``num_return_sequences`` rows."""
        rows = inputs_embeds[None].expand(options.num_return_sequences, -1, -1)
        steps = decode_steps(self.model.text, rows, None, options)
        while True:
            with self._lock:
                step = next(steps, None)
            if step is None:
                return
            yield step

    def beams(self, inputs_embeds: Tensor, options: GenerationOptions) -> list[list[int]]:
        """Beam search over [T, C]; the best ``num_return_sequences`` sequences of ids."""
        with self._lock:
            return generate(self.model.text, inputs_embeds[None], None, options).ids

    @torch.no_grad()
    def score(self, inputs_embeds: Tensor, ids: list[int]) -> list[float]:
        """Float32 log-softmax at ``ids`` fed after [T, C]."""
        text = self.model.text
        with self._lock:
            told = text.embed(torch.tensor(ids[:-1], dtype=torch.int64))
            hidden = text(torch.cat([inputs_embeds, told])[None])[0, len(inputs_embeds) - 1 :]
            return text.logits(hidden).log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()

    def close(self) -> None:
        """Drop the weights."""
        with self._lock:
            del self.model
