"""From the arguments of ``from_pretrained`` to a directory on disk and checked settings."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.directory import ModelDirectory
from ..config import ModelConfig
from ..errors import CheckpointError, InvalidArgumentError, UnsupportedError
from .reference_backend import DTYPES

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja"]


@dataclass(frozen=True)
class Settings:
    """Checked settings of one load."""

    dtype: str
    quantization: str
    vision_dtype: str
    backend: str

    def check_directory(self, config: ModelConfig) -> None:
        """Raises InvalidArgumentError where a setting contradicts the directory."""
        stored = config.quantization
        if self.quantization not in ("auto", stored.text):
            raise InvalidArgumentError(
                f"quantization is {self.quantization!r} but the directory holds {stored.text!r}: "
                "convert again, or leave it 'auto'"
            )
        if config.vision is not None and self.vision_dtype not in ("auto", stored.vision):
            raise InvalidArgumentError(
                f"vision_dtype is {self.vision_dtype!r} but the directory holds {stored.vision!r}: "
                "convert again, or leave it 'auto'"
            )

    def describe(self, path: Path, directory: ModelDirectory, vision: bool) -> dict[str, Any]:
        """The dict behind ``TinyGPTV.info``."""
        config = directory.config
        return {
            "path": str(path),
            "model_id": directory.content_hash,
            "backend": self.backend,
            "device": "cpu",
            "dtype": self.dtype,
            "quantization": config.quantization.text,
            "group_size": config.quantization.group_size,
            "kv_dtype": self.dtype,
            "vision": vision,
            "vision_dtype": config.quantization.vision if vision else None,
            "image_size": config.vision.image_size if config.vision is not None else None,
            "template": directory.template.name,
            "max_positions": config.text.max_positions,
            "config": config.to_dict(),
        }


def check_settings(
    *,
    device: Any,
    dtype: Any,
    quantization: Any,
    kv_dtype: Any,
    vision: Any,
    vision_dtype: Any,
    load: Any,
    threads: Any,
    max_sequences: Any,
    kv_tokens: Any,
    adapter: Any,
    backend: Any,
) -> Settings:
    """Validate what can be validated before any file is read."""
    _one_of("backend", backend, ("native", "reference"))
    _one_of("device", device, ("auto", "cpu", "cuda"))
    _one_of("quantization", quantization, ("auto", "int4", "int8", "none"))
    _one_of("vision_dtype", vision_dtype, ("auto", "float32", "bfloat16", "int8"))
    _one_of("load", load, ("auto", "mmap"))
    name = _dtype_name(dtype)
    if not isinstance(vision, bool):
        raise InvalidArgumentError(f"vision is {vision!r}, expected True or False")
    for key, value, optional in (
        ("threads", threads, True),
        ("max_sequences", max_sequences, False),
        ("kv_tokens", kv_tokens, True),
    ):
        if not (optional and value is None) and (type(value) is not int or value < 1):
            raise InvalidArgumentError(f"{key} is {value!r}, expected an integer >= 1")
    if backend == "native":
        raise UnsupportedError("backend 'native' is not part of this version, expected backend='reference' for now")
    unavailable = {
        "device": device == "cuda",
        "kv_dtype": kv_dtype != "auto",
        "load": load == "mmap",
        "kv_tokens": kv_tokens is not None,
        "adapter": adapter is not None,
    }
    for key, asked in unavailable.items():
        if asked:
            raise UnsupportedError(f"{key} is not available with backend 'reference', expected its default")
    return Settings(name, quantization, vision_dtype, backend)


def _one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidArgumentError(f"{name} is {value!r}, expected one of {', '.join(map(repr, choices))}")


def _dtype_name(dtype: Any) -> str:
    name = str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else dtype
    if name == "auto":
        return "float32"
    _one_of("dtype", name, tuple(DTYPES))
    return str(name)


def locate(
    path_or_id: str | os.PathLike[str],
    *,
    revision: str | None,
    token: str | None,
    cache_dir: str | os.PathLike[str] | None,
    local_files_only: bool,
) -> Path:
    """The directory of 'demo', of a local path, or of a hub id (downloaded into the hub's cache)."""
    if path_or_id == "demo":
        return Path(str(resources.files("tinygptv_fast") / "assets" / "demo"))
    path = Path(path_or_id)
    if path.exists():
        return path
    if not isinstance(path_or_id, str) or not _HUB_ID.fullmatch(path_or_id):
        raise CheckpointError(f"{path_or_id} does not exist, expected 'demo', a model directory or a hub id owner/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                path_or_id,
                revision=revision,
                token=token,
                cache_dir=None if cache_dir is None else str(cache_dir),
                local_files_only=local_files_only,
                allow_patterns=_HUB_FILES,
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path_or_id} is no local directory and could not be fetched: {reason}") from error
