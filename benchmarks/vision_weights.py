"""Weights of the real vision side for benchmarks/vision.py: drawn, or in a file of the size users have.

``DrawnSource`` draws float32 tensors by name with the rules of make_full_size.py, outliers included, and keeps only the
last few: for errors. ``write_directory`` writes random bits of the right shapes and kinds: for speed and memory.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from make_full_size import Maker, Sizes
from tinygptv_fast.checkpoint.directory import ModelDirectory
from tinygptv_fast.checkpoint.names import canonical_shapes, parts, storage_kind
from tinygptv_fast.checkpoint.safetensors_file import SafetensorsFile
from tinygptv_fast.checkpoint.writer import SafetensorsWriter
from tinygptv_fast.config import ModelConfig, QFormerConfig, QuantizationConfig, TextConfig, VisionConfig
from tinygptv_fast.quantize.int8 import Int8Tensor

_POOL = 1 << 23


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


def write_directory(folder: Path, config: ModelConfig, seed: int = 0) -> ModelDirectory:
    """``model.safetensors`` of ``config`` in ``folder``, opened: random bytes and floats, no tokenizer, no hashes."""
    generator = torch.Generator().manual_seed(seed)
    floats = torch.randn(_POOL, generator=generator)
    levels = torch.randint(-127, 128, (_POOL,), generator=generator, dtype=torch.int8)
    shapes = canonical_shapes(config)
    stored = [p for n, s in shapes.items() for p in parts(n, s, storage_kind(n, config), config.quantization)]
    writer = SafetensorsWriter(folder / "model.safetensors", stored, {"format": "benchmark"})
    try:
        for part in stored:
            count = part.nbytes // part.dtype.itemsize
            pool = levels if part.dtype == torch.int8 else floats
            values = pool.repeat(-(-count // _POOL))[:count] if count > _POOL else pool[:count]
            if part.name.endswith(".scales"):
                values = torch.full((count,), 0.02 / 73)  # levels have a standard deviation of 73
            elif part.dtype != torch.int8:
                values = values * 0.02 + (1.0 if "norm" in part.name and part.name.endswith("weight") else 0.0)
            writer.write(part.name, values.to(part.dtype).view(part.shape))
        writer.finish()
    finally:
        writer.close()
    return ModelDirectory(folder, config, SafetensorsFile(folder / "model.safetensors"))
