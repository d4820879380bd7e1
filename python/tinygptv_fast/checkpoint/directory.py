"""Our model directory, opened strictly and mapped: what docs/architecture.md describes and nothing else.

``open_directory`` reads json files and one safetensors header; no weight is touched. Every tensor the configuration
calls for must be there in an allowed storage form, and nothing else may be.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import FORMAT_VERSION, ModelConfig
from ..errors import CheckpointError, ConfigError
from .files import read_json_object
from .mapped import TensorInfo
from .names import FLOAT_CODES, Part, canonical_shapes, parts, storage_kind
from .safetensors_file import SafetensorsFile

if TYPE_CHECKING:
    import torch

    from ..processing.templates import Template
    from ..quantize.int4 import Int4Tensor
    from ..quantize.int8 import Int8Tensor
    from ..quantize.receipt import Receipt

WEIGHTS = "model.safetensors"
HASHES = "hashes.json"
REPORT = "report.json"
TEMPLATE_KEY = "prompt_template"
UNTRAINED = "untrained"  # in report.json: norms and projector are where training starts
_CHUNK = 1 << 22


def storage_choices(name: str, config: ModelConfig) -> list[str]:
    """The storage forms ``name`` may have. An int4 model may keep its head in int8, where its receipt asks for it."""
    kind = storage_kind(name, config)
    return [kind, "int8"] if name == "text.head.weight" and kind == "int4" else [kind]


@dataclass(frozen=True)
class Mismatch:
    """One file or tensor whose content differs from ``hashes.json``."""

    name: str
    expected: str
    found: str


class ModelDirectory:
    """An opened directory. Tensors are views of the mapped file: read them, do not keep a second copy."""

    def __init__(self, path: Path, config: ModelConfig, weights: SafetensorsFile) -> None:
        self.path = path
        self.config = config
        self._weights = weights
        self._shapes = canonical_shapes(config)
        self._kinds = _match(path, config, weights, self._shapes)

    def names(self) -> list[str]:
        """Canonical names of all tensors of the model, quantised or not."""
        return list(self._kinds)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of canonical tensor ``name``, unquantised."""
        self.kind(name)
        return self._shapes[name]

    def kind(self, name: str) -> str:
        """How ``name`` is stored: ``float32``, ``float16``, ``bfloat16``, ``int8`` or ``int4``."""
        try:
            return self._kinds[name]
        except KeyError:
            raise CheckpointError(f"{self.path} has no tensor {name!r}") from None

    def tensor(self, name: str) -> torch.Tensor:
        """Unquantised tensor ``name`` as it is stored. Quantised ones raise: see ``quantized``, ``dequantized``."""
        if self.kind(name) not in FLOAT_CODES:
            raise CheckpointError(f"{self.path}: {name} is stored as {self.kind(name)}; read it with quantized()")
        return self._weights.tensor(name)

    def quantized(self, name: str) -> Int4Tensor | Int8Tensor:
        """Quantised matrix ``name`` with its parts mapped from the file."""
        from ..quantize.int4 import Int4Tensor
        from ..quantize.int8 import Int8Tensor

        kind, stem = self.kind(name), name.removesuffix(".weight")
        if kind in FLOAT_CODES:
            raise CheckpointError(f"{self.path}: {name} is stored as {kind}, it is not quantised")
        qweight, scales = self._weights.tensor(f"{stem}.qweight"), self._weights.tensor(f"{stem}.scales")
        if kind == "int8":
            return Int8Tensor(qweight, scales)
        quantization = self.config.quantization
        zeros = None if quantization.symmetric else self._weights.tensor(f"{stem}.zeros")
        return Int4Tensor(qweight, scales, zeros, self._shapes[name][1], quantization.group_size)

    def dequantized(self, name: str) -> torch.Tensor:
        """``name`` in float32 if it is quantised, else as it is stored."""
        if self.kind(name) in FLOAT_CODES:
            return self.tensor(name)
        from ..quantize.int4 import Int4Tensor, dequantize_int4
        from ..quantize.int8 import dequantize_int8

        packed = self.quantized(name)
        return dequantize_int4(packed) if isinstance(packed, Int4Tensor) else dequantize_int8(packed)

    def computed(self, name: str) -> bool:
        """Whether ``name`` is not what the file holds but computed from it, so that rounding it to its storage form
        costs something ``dequantized`` does not."""
        self.kind(name)
        return False

    def arrays(self, name: str) -> list[np.ndarray[Any, Any]]:
        """``name`` in its storage form, without torch where it lies in the file so: one array, bfloat16 as uint16; of
        a quantised matrix qweight, scales and, if it is asymmetric, zeros."""
        stored = parts(name, self.shape(name), self.kind(name), self.config.quantization)
        return [self._weights.array(part.name) for part in stored]

    def release(self, name: str) -> None:
        """``name`` has been copied: the pages of the mapped file that hold it leave this process's memory."""
        for part in parts(name, self._shapes[name], self.kind(name), self.config.quantization):
            self._weights.release(part.name)

    @property
    def tokenizer_file(self) -> Path:
        return self.path / "tokenizer.json"

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        return read_json_object(self.path / "generation_config.json")

    @cached_property
    def preprocessor(self) -> dict[str, Any] | None:
        """``preprocessor_config.json``, None for a text-only model."""
        return read_json_object(self.path / "preprocessor_config.json") if self.config.vision else None

    @property
    def chat_template(self) -> str:
        """The jinja text, for programs that render templates themselves."""
        return (self.path / "chat_template.jinja").read_text(encoding="utf-8")

    @cached_property
    def template(self) -> Template:
        """The prompt template chosen at conversion."""
        return read_template(self.generation_config, self.path / "generation_config.json")

    @cached_property
    def quality(self) -> Receipt:
        from ..quantize.receipt import read_receipt

        return read_receipt(self.path / "quality.json")

    @cached_property
    def report(self) -> dict[str, Any]:
        """The conversion report: what became of every tensor of the source files."""
        return read_json_object(self.path / REPORT)

    @cached_property
    def hashes(self) -> dict[str, Any]:
        """``hashes.json``: sha256 of each small file, of the weight file's header and of each tensor."""
        return read_hashes(self.path)

    @property
    def content_hash(self) -> str:
        """One sha256 for all weights: the key of anything derived from them."""
        lines = "\n".join(f"{name} {value}" for name, value in sorted(self.hashes["tensors"].items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    def check_header(self) -> None:
        """Raise unless the weight file is the one ``hashes.json`` was written for. Cheap: reads the header only."""
        stated = self.hashes["weights"]
        found = hashlib.sha256(self._weights.header_bytes()).hexdigest()
        if (stated.get("size"), stated.get("header_sha256")) != (self._weights.size, found):
            raise CheckpointError(f"{self.path / WEIGHTS} is not the file {HASHES} was written for")

    def verify_hashes(self) -> list[Mismatch]:
        """Read everything and compare with ``hashes.json``; an empty list means unchanged."""
        out = []
        for name, expected in self.hashes["files"].items():
            found = _file_sha256(self.path / name)
            if found != expected:
                out.append(Mismatch(name, expected, found))
        for name in self._weights.names():
            expected, found = self.hashes["tensors"].get(name, "nothing"), _array_sha256(self._weights.array(name))
            if found != expected:
                out.append(Mismatch(name, expected, found))
        return out


def open_directory(path: str | os.PathLike[str]) -> ModelDirectory:
    """Open a model directory. Raises ``CheckpointError`` or ``ConfigError`` naming the file and what is wrong."""
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a directory; expected a converted model")
    for name in ("config.json", WEIGHTS, "tokenizer.json", "generation_config.json", "chat_template.jinja", HASHES):
        if not (path / name).is_file():
            raise CheckpointError(f"{path} has no {name}; expected a directory written by 'tinygptv convert'")
    data = read_json_object(path / "config.json")
    if data.get("model_type") != "tinygptv":
        raise CheckpointError(
            f"{path / 'config.json'} has model_type {data.get('model_type')!r}, expected 'tinygptv'; "
            "original files are converted first: 'tinygptv convert'"
        )
    if data.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path / 'config.json'} has format_version {data.get('format_version')!r}, "
            f"this version reads {FORMAT_VERSION}"
        )
    try:
        config = ModelConfig.from_dict(data)
    except ConfigError as error:
        raise ConfigError(f"{path / 'config.json'}: {error}") from error
    directory = ModelDirectory(path, config, SafetensorsFile(path / WEIGHTS))
    directory.check_header()
    return directory


def read_template(generation_config: Mapping[str, Any], where: Path) -> Template:
    """The prompt template that a ``generation_config.json`` names, or spells out. where: its path, for errors."""
    from ..processing.templates import Template, get_template

    value = generation_config.get(TEMPLATE_KEY)
    if isinstance(value, dict):
        try:
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
            return Template(**fields)
        except TypeError as error:
            raise ConfigError(f"{where}: {TEMPLATE_KEY}: {error}") from error
    if not isinstance(value, str):
        raise ConfigError(f"{where} lacks {TEMPLATE_KEY!r}")
    return get_template(value)


def read_hashes(path: Path) -> dict[str, Any]:
    data = read_json_object(path / HASHES)
    good = data.get("version") == 1 and all(isinstance(data.get(key), dict) for key in ("files", "tensors", "weights"))
    if not good or any(Path(name).name != name for name in data["files"]):
        raise CheckpointError(f"{path / HASHES} is malformed, expected version 1 with files, weights and tensors")
    return data


def _match(
    path: Path, config: ModelConfig, weights: SafetensorsFile, shapes: dict[str, tuple[int, ...]]
) -> dict[str, str]:
    """Storage kind of each canonical tensor; every fault of the file in one error."""
    present, used = set(weights.names()), set[str]()
    faults: list[str] = []
    kinds: dict[str, str] = {}
    for name, shape in shapes.items():
        choices = storage_choices(name, config)
        stored = [(kind, parts(name, shape, kind, config.quantization)) for kind in choices]
        fits = [(kind, wanted) for kind, wanted in stored if _all_fit(weights, wanted, present)]
        if fits:
            kinds[name] = fits[0][0]
            used.update(part.name for part in fits[0][1])
            continue
        for part in stored[0][1]:
            used.add(part.name)
            found = str(weights.info(part.name)) if part.name in present else "missing"
            wanted_info = TensorInfo(part.shape, part.code)
            if found != str(wanted_info):
                faults.append(f"{part.name} is {found}, expected {wanted_info}")
    faults += [f"{name} {weights.info(name)} is not a tensor of this model" for name in sorted(present - used)]
    if faults:
        more = f" and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise CheckpointError(f"{path / WEIGHTS} does not fit config.json: {'; '.join(faults[:10])}{more}")
    return kinds


def _all_fit(weights: SafetensorsFile, wanted: list[Part], present: set[str]) -> bool:
    return all(p.name in present and weights.info(p.name) == TensorInfo(p.shape, p.code) for p in wanted)


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as handle:
            while chunk := handle.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return digest.hexdigest()


def _array_sha256(array: np.ndarray[Any, Any]) -> str:
    flat = array.reshape(-1).view(np.uint8)
    digest = hashlib.sha256()
    for start in range(0, flat.size, _CHUNK):
        digest.update(flat[start : start + _CHUNK].data)
    return digest.hexdigest()
