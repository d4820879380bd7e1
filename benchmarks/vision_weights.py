"""Weights of the real vision side for benchmarks/vision.py: drawn, or in a file of the size users have.

``DrawnSource`` draws float32 tensors by name with the rules of make_full_size.py, outliers included, and keeps only the
last few: for errors. ``PoolSource`` cuts every tensor from one pool of random values: for speed. ``write_directory``
writes such values into a file: for memory.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from make_full_size import Maker, Sizes
from tinygptv_fast.checkpoint.directory import ModelDirectory
from tinygptv_fast.checkpoint.dtypes import torch_dtype
from tinygptv_fast.checkpoint.names import FLOAT_CODES, canonical_shapes, parts, storage_kind
from tinygptv_fast.checkpoint.safetensors_file import SafetensorsFile
from tinygptv_fast.checkpoint.writer import SafetensorsWriter
from tinygptv_fast.config import ModelConfig, QFormerConfig, QuantizationConfig, TextConfig, VisionConfig
from tinygptv_fast.quantize.int8 import Int8Tensor

_POOL = 20 << 20  # no less than the largest matrix, which is the text layer's qkv


def real_config(image_size: int, vision: str, layers: int = 39) -> ModelConfig:
    """The released vision side over a text model of one small layer, whose width is the released one's."""
    text = TextConfig(layers=1, heads=32, mlp_width=64, vocab_size=64, max_positions=64)
    tower = VisionConfig(image_size=image_size, layers=layers)
    return ModelConfig(text=text, vision=tower, qformer=QFormerConfig(), quantization=QuantizationConfig(vision=vision))


class DrawnSource:
    """float32 tensors by canonical name; the last ``keep`` drawn are kept, for one tower after the other."""

    def __init__(self, config: ModelConfig, outliers: bool, keep: int = 24, seed: int = 0) -> None:
        self.config = config
        self._shapes = canonical_shapes(config)
        self._maker = Maker(Sizes(), seed, outliers)
        self._kept: dict[str, Tensor] = {}
        self._keep = keep

    def kind(self, name: str) -> str:
        return "float32"

    def tensor(self, name: str) -> Tensor:
        if name not in self._kept:
            drawn = torch.cat(list(self._maker.blocks(_original(name), self._shapes[name], torch.float32)))
            self._kept[name] = drawn
            for oldest in list(self._kept)[: -self._keep]:
                del self._kept[oldest]
        return self._kept[name]

    def quantized(self, name: str) -> Int8Tensor:
        raise KeyError(f"{name} is float32")

    def release(self, name: str) -> None:
        """Kept until others push it out."""


def _original(name: str) -> str:
    """A name for which Maker's rules (gain, residual, outlier columns) hold as for the original's tensor."""
    if name.startswith("vision.layers."):
        return name.replace("vision.layers.", "blocks.").replace("attn.out.", "attn.proj.")
    return name.replace("attn.out.", "attn.output.dense.")


class PoolSource:
    """Random values of the right shapes and kinds; every tensor is the beginning of one pool."""

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.config = config
        self._shapes = canonical_shapes(config)
        self._floats = torch.randn(_POOL, generator=generator) * 0.02
        self._levels = torch.randint(-127, 128, (_POOL,), generator=generator, dtype=torch.int8)

    def kind(self, name: str) -> str:
        return storage_kind(name, self.config)

    def tensor(self, name: str) -> Tensor:
        shape = self._shapes[name]
        if "norm" in name and name.endswith("weight"):
            return torch.ones(shape)
        return self._floats[: math.prod(shape)].view(shape).to(torch_dtype(FLOAT_CODES[self.kind(name)]))

    def quantized(self, name: str) -> Int8Tensor:
        rows, columns = self._shapes[name]
        scales = torch.full((rows,), 0.02 / 73)  # levels have a standard deviation of 73
        return Int8Tensor(self._levels[: rows * columns].view(rows, columns), scales)

    def release(self, name: str) -> None:
        """Nothing is held for it."""


def write_directory(folder: Path, config: ModelConfig) -> ModelDirectory:
    """``model.safetensors`` of ``config`` in ``folder``, opened: a ``PoolSource`` on the disk, no other file."""
    source = PoolSource(config)
    kinds = {name: storage_kind(name, config) for name in canonical_shapes(config)}
    stored = [p for n, s in canonical_shapes(config).items() for p in parts(n, s, kinds[n], config.quantization)]
    writer = SafetensorsWriter(folder / "model.safetensors", stored, {"format": "benchmark"})
    try:
        for name, kind in kinds.items():
            if kind == "int8":
                packed, stem = source.quantized(name), name.removesuffix(".weight")
                writer.write(f"{stem}.qweight", packed.qweight)
                writer.write(f"{stem}.scales", packed.scales)
            else:
                writer.write(name, source.tensor(name))
        writer.finish()
    finally:
        writer.close()
    return ModelDirectory(folder, config, SafetensorsFile(folder / "model.safetensors"))
