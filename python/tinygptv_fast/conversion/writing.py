"""Writes a model directory: quantises tensor by tensor, block by block, and publishes the result in one rename.

Memory is bounded by one block of rows in float32 and its quantised form, whatever the size of the model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.atomic import atomic_directory, write_text
from ..checkpoint.directory import HASHES, REPORT, TEMPLATE_KEY, WEIGHTS
from ..checkpoint.dtypes import torch_dtype
from ..checkpoint.ledger import Ledger
from ..checkpoint.mapped import element_count
from ..checkpoint.names import FLOAT_CODES, Part, canonical_shapes, parts, storage_kind
from ..checkpoint.recipe import Recipe
from ..checkpoint.writer import SafetensorsWriter
from ..config import ModelConfig, QuantizationConfig
from ..errors import CheckpointError, ConfigError, InvalidArgumentError
from ..heap import HeapTrimmer
from ..processing.templates import TEMPLATES, Template, get_template
from ..processing.tokenizer import Tokenizer
from ..quantize.int4 import quantize_int4
from ..quantize.int8 import quantize_int8
from ..quantize.measure import ErrorSums, measure
from ..quantize.receipt import Receipt, TensorRecord, write_receipt

Progress = Callable[[int, int, str], None]
"""``progress(done_bytes, total_bytes, tensor_name)``, called after each block of the output is written."""

_BLOCK_ELEMENTS = 1 << 22  # 16 MiB of float32 per block
_SLACK_BYTES = 32 << 20  # the small files of a directory


def write_model(
    out: str | os.PathLike[str],
    config: ModelConfig,
    tensors: Mapping[str, torch.Tensor | Recipe] | Iterable[tuple[str, torch.Tensor | Recipe]],
    tokenizer_file: str | os.PathLike[str],
    preprocessor: Mapping[str, Any] | None = None,
    generation_config: Mapping[str, Any] | None = None,
    template: str | Template = "raw",
    *,
    ledger: Ledger | None = None,
    report: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    quantization: QuantizationConfig | None = None,
    progress: Progress | None = None,
) -> Receipt:
    """Write ``out`` from unquantised tensors under canonical names (docs/architecture.md), in any order.

    tensors: floating, of exactly the shapes ``config`` implies, every one of them and no other.
    tokenizer_file: ``tokenizer.json``, or a directory with it or with the older vocab.json and merges.txt.
    preprocessor: ``ImageProcessor.to_dict()``; required with vision, refused without.
    generation_config: added to the defaults (greedy, the template's stop strings, the config's token ids).
    quantization: how to store the tensors; None takes ``config.quantization``.
    Returns the receipt that ``quality.json`` holds. On any error nothing of ``out`` is visible.
    """
    if quantization is not None:
        config = dataclasses.replace(config, quantization=quantization)
    if (config.vision is None) != (preprocessor is None):
        raise InvalidArgumentError("preprocessor goes with a vision model: expected both or neither")
    chosen = get_template(template)
    tokenizer_text = _tokenizer_text(Path(tokenizer_file), config)
    jobs = _Jobs(config)
    files = {
        "config.json": _json(config.to_dict()),
        "tokenizer.json": tokenizer_text,
        "generation_config.json": _json(_generation_config(config, chosen, generation_config or {})),
        "chat_template.jinja": chosen.jinja(),
        REPORT: _json({"version": 1, **(report or {}), **(ledger.to_dict() if ledger else {})}),
    }
    if preprocessor is not None:
        files["preprocessor_config.json"] = _json(dict(preprocessor))
    with atomic_directory(out, overwrite=overwrite, needed_bytes=jobs.total_bytes + _SLACK_BYTES) as folder:
        receipt, weights, hashes = jobs.run(folder / WEIGHTS, _pairs(tensors), progress)
        for name, text in files.items():
            write_text(folder / name, text)
        write_receipt(folder / "quality.json", receipt)
        digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(files.items())}
        write_text(folder / HASHES, _json({"version": 1, "weights": weights, "files": digests, "tensors": hashes}))
    return receipt


class _Jobs:
    """What has to be written for one configuration, and the doing of it."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._shapes = canonical_shapes(config)
        self._kinds = {name: storage_kind(name, config) for name in self._shapes}
        self._parts = {name: self._parts_of(name) for name in self._shapes}
        self.total_bytes = sum(part.nbytes for stored in self._parts.values() for part in stored)

    def run(
        self, path: Path, tensors: Iterable[tuple[str, torch.Tensor | Recipe]], progress: Progress | None
    ) -> tuple[Receipt, dict[str, Any], dict[str, str]]:
        """Write all tensors; returns the receipt, what identifies the file, and each stored tensor's sha256."""
        every = [part for stored in self._parts.values() for part in stored]
        writer = SafetensorsWriter(path, every, {"format": "tinygptv", "version": str(self._config.format_version)})
        records: dict[str, TensorRecord] = {}
        done, heap = 0, HeapTrimmer()
        try:
            for name, tensor in tensors:
                if name not in self._shapes or name in records:
                    what = "is given twice" if name in records else "is not a tensor of this model"
                    raise CheckpointError(f"tensor {name!r} {what}")
                error = ErrorSums()
                heap.used(4 * element_count(self._shapes[name]))
                for piece, count in self._write(writer, name, tensor):
                    error += piece
                    done += count
                    if progress is not None:
                        progress(done, self.total_bytes, name)
                records[name] = self._record(name, error)
            missing = sorted(set(self._shapes) - set(records))
            if missing:
                raise CheckpointError(f"{len(missing)} tensors of the model are missing: {missing[:10]}")
            hashes = writer.finish()
        finally:
            writer.close()
        ordered = tuple(records[name] for name in self._shapes)
        return Receipt(ordered), {"size": writer.size, "header_sha256": writer.header_sha256}, hashes

    def _parts_of(self, name: str) -> list[Part]:
        return parts(name, self._shapes[name], self._kinds[name], self._config.quantization)

    def _record(self, name: str, error: ErrorSums) -> TensorRecord:
        kind, quantization = self._kinds[name], self._config.quantization
        group = quantization.group_size if kind == "int4" else 0
        if kind == "int4" and not quantization.symmetric:
            kind = "int4_asymmetric"
        return TensorRecord.from_sums(name, kind, error, sum(part.nbytes for part in self._parts[name]), group)

    def _write(
        self, writer: SafetensorsWriter, name: str, tensor: torch.Tensor | Recipe
    ) -> Iterable[tuple[ErrorSums, int]]:
        """Write one canonical tensor block by block, yielding (error, bytes written) of each block."""
        shape = self._shapes[name]
        if tuple(tensor.shape) != shape:
            raise CheckpointError(f"tensor {name!r} is {list(tensor.shape)}, expected {list(shape)}")
        step = max(1, _BLOCK_ELEMENTS * shape[0] // max(1, element_count(shape)))
        for start in range(0, shape[0], step):
            rows = _rows(tensor, name, start, min(start + step, shape[0]))
            stored, error = self._store(name, rows)
            for part, values in zip(self._parts[name], stored, strict=True):
                writer.write(part.name, values)
            yield error, sum(values.numel() * values.element_size() for values in stored)

    def _store(self, name: str, rows: torch.Tensor) -> tuple[list[torch.Tensor], ErrorSums]:
        kind, quantization = self._kinds[name], self._config.quantization
        if kind == "int4":
            packed = quantize_int4(rows, quantization.group_size, quantization.symmetric, name=name)
            extra = [] if packed.zeros is None else [packed.zeros]
            return [packed.qweight, packed.scales, *extra], packed.error or ErrorSums()
        if kind == "int8":
            whole = quantize_int8(rows, name=name)
            return [whole.qweight, whole.scales], whole.error or ErrorSums()
        values = rows.to(torch_dtype(FLOAT_CODES[kind]))
        if values.dtype == torch.float32:
            return [values], ErrorSums(elements=values.numel())
        if not bool(torch.isfinite(values).all()):
            raise CheckpointError(f"tensor {name!r} has values beyond the range of {kind}")
        return [values], measure(rows, values)


def _rows(tensor: torch.Tensor | Recipe, name: str, start: int, stop: int) -> torch.Tensor:
    if isinstance(tensor, Recipe):
        rows = tensor.rows(start, stop)
    else:
        if not tensor.is_floating_point():
            raise CheckpointError(f"tensor {name!r} is {tensor.dtype}, expected a floating dtype")
        rows = tensor.detach()[start:stop].to(torch.float32)
    if not bool(torch.isfinite(rows).all()):
        raise CheckpointError(f"tensor {name!r} holds NaN or Inf values")
    return rows.contiguous()


def _pairs(
    tensors: Mapping[str, torch.Tensor | Recipe] | Iterable[tuple[str, torch.Tensor | Recipe]],
) -> Iterable[tuple[str, torch.Tensor | Recipe]]:
    return tensors.items() if isinstance(tensors, Mapping) else tensors


def _tokenizer_text(path: Path, config: ModelConfig) -> str:
    tokenizer = Tokenizer.from_file(path)
    if tokenizer.size > config.text.vocab_size:
        raise CheckpointError(f"{path} has {tokenizer.size} tokens, the model's vocabulary {config.text.vocab_size}")
    if path.is_dir():
        path = path / "tokenizer.json"
    return path.read_text(encoding="utf-8") if path.is_file() else tokenizer.to_json()


def _generation_config(config: ModelConfig, template: Template, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Greedy, with the template's stop strings. ``prompt_template`` is its name, or its fields if it has no name."""
    named = TEMPLATES.get(template.name) == template
    base: dict[str, Any] = {
        "do_sample": False,
        "num_beams": 1,
        "stop_strings": list(template.stop),
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        TEMPLATE_KEY: template.name if named else dataclasses.asdict(template),
    }
    reserved = sorted({TEMPLATE_KEY} & set(extra))
    if reserved:
        raise ConfigError(f"generation_config sets {reserved}, which follow from template")
    return {**base, **extra}


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
