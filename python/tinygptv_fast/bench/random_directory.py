"""A model directory of random int4 weights (vision in int8) of any size, written in seconds: for measuring starts.

Levels and scales are drawn directly, nothing is quantised: it answers nonsense at the speed of a real one. Everything
else about it is whole: hashes, receipt (errors stated as 0: there was nothing to round), the demo's tokenizer, prompts
used as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.atomic import atomic_directory, write_text
from ..checkpoint.directory import HASHES, REPORT, TEMPLATE_KEY, WEIGHTS
from ..checkpoint.dtypes import torch_dtype
from ..checkpoint.names import Part, canonical_shapes, parts, storage_kind
from ..checkpoint.writer import SafetensorsWriter
from ..config import ModelConfig, QFormerConfig, QuantizationConfig, TextConfig, VisionConfig
from ..generate.loading import locate
from ..processing.image import ImageProcessor
from ..processing.templates import get_template
from ..quantize.measure import ErrorSums
from ..quantize.receipt import Receipt, TensorRecord, write_receipt

_POOL = 1 << 24  # random bytes drawn once and used again and again


def write_random_directory(
    out: Path,
    text: TextConfig,
    group_size: int,
    note: Callable[[str], None] = lambda text: None,
    *,
    vision: VisionConfig | None = None,
    qformer: QFormerConfig | None = None,
) -> None:
    """Write ``out``, a new directory; text-only unless ``vision`` and ``qformer`` are given. Raises CheckpointError (no
    room on the disk)."""
    quantization = QuantizationConfig(text="int4", group_size=group_size, vision="int8")
    config = ModelConfig(text=text, vision=vision, qformer=qformer, quantization=quantization)
    shapes = canonical_shapes(config)
    stored = {name: parts(name, shapes[name], storage_kind(name, config), quantization) for name in shapes}
    every = [part for tensor in stored.values() for part in tensor]
    demo = locate("demo", revision=None, token=None, cache_dir=None, local_files_only=True)
    template = get_template("raw")
    files = {
        "config.json": _json(config.to_dict()),
        "tokenizer.json": (demo / "tokenizer.json").read_text(encoding="utf-8"),
        "generation_config.json": _json({"do_sample": False, "stop_strings": [], TEMPLATE_KEY: template.name}),
        "chat_template.jinja": template.jinja(),
        REPORT: _json({"version": 1}),
    }
    if vision is not None:
        files["preprocessor_config.json"] = _json(ImageProcessor(vision.image_size).to_dict())
    with atomic_directory(out, overwrite=False, needed_bytes=sum(part.nbytes for part in every)) as folder:
        writer = SafetensorsWriter(folder / WEIGHTS, every, {"format": "tinygptv", "version": "1"})
        try:
            pool = torch.randint(0, 256, (_POOL,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
            for name, tensor in stored.items():
                note(f"writing {name}")
                for part in tensor:
                    writer.write(part.name, _values(part, name, shapes[name], pool))
            hashes = writer.finish()
        finally:
            writer.close()
        for name, content in files.items():
            write_text(folder / name, content)
        write_receipt(folder / "quality.json", _receipt(config, shapes, stored))
        digests = {name: hashlib.sha256(content.encode()).hexdigest() for name, content in sorted(files.items())}
        weights = {"size": writer.size, "header_sha256": writer.header_sha256}
        write_text(folder / HASHES, _json({"version": 1, "weights": weights, "files": digests, "tensors": hashes}))


def _values(part: Part, name: str, shape: tuple[int, ...], pool: torch.Tensor) -> torch.Tensor:
    """Levels from the pool; scales that give rows of length about one; norms of one, biases of zero."""
    dtype = torch_dtype(part.code)
    if part.code in ("U8", "I8"):
        return pool.repeat(-(-part.nbytes // _POOL))[: part.nbytes].view(dtype).reshape(part.shape)
    if part.name.endswith(".scales"):
        largest = 128.0 if len(part.shape) == 1 else 8.0
        return torch.full(part.shape, 1.7 / largest / shape[1] ** 0.5, dtype=dtype)
    if len(shape) > 1:  # patches, positions, queries
        floats = (pool[: 1 << 16].float() - 127.5) * 3e-4
        return floats.repeat(-(-part.nbytes // 4 >> 16))[: part.nbytes // 4].view(part.shape).to(dtype)
    return torch.full(part.shape, 1.0 if name.endswith("weight") else 0.0, dtype=dtype)


def _receipt(config: ModelConfig, shapes: dict[str, tuple[int, ...]], stored: dict[str, list[Part]]) -> Receipt:
    records = []
    for name, tensor in stored.items():
        kind = storage_kind(name, config)
        group = config.quantization.group_size if kind == "int4" else 0
        elements = torch.Size(shapes[name]).numel()
        size = sum(part.nbytes for part in tensor)
        records.append(TensorRecord.from_sums(name, kind, ErrorSums(elements=elements), size, group))
    return Receipt(tuple(records))


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
