"""From the arguments of ``from_pretrained`` to a directory on disk and checked settings."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ..checkpoint.directory import ModelDirectory
from ..config import ModelConfig
from ..env import MAX_THREADS, read_settings
from ..errors import CheckpointError, InvalidArgumentError, UnsupportedError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
DTYPES = ("float32", "bfloat16")
KV_DTYPES = ("int8", "float16", "bfloat16", "float32")
MAX_SEQUENCES, MAX_KV_TOKENS = 1024, 1 << 26
ON_GPU = ("cuda", "offload")  # of vision_device: pictures are encoded there
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja"]


@dataclass(frozen=True)
class Settings:
    """Checked settings of one load. dtype and kv_dtype are names or "auto"; threads 0 means the physical cores."""

    dtype: str
    quantization: str
    kv_dtype: str
    vision_dtype: str
    load: str
    threads: int
    max_sequences: int
    kv_tokens: int | None
    backend: str
    device: str  # "cpu" or "cuda"
    vision_device: str  # where pictures are encoded, "cpu", "cuda" or "offload"

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
        """What ``TinyGPTV.info`` says of any backend; the backend's own facts come on top."""
        config = directory.config
        return {
            "path": str(path),
            "model_id": directory.content_hash,
            "backend": self.backend,
            "device": self.device,
            "quantization": config.quantization.text,
            "group_size": config.quantization.group_size,
            "vision": vision,
            "vision_dtype": config.quantization.vision if vision else None,
            "vision_device": self.vision_device if vision else None,
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
    vision_device: Any,
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
    _one_of("vision_device", vision_device, ("auto", "cpu", "cuda", "offload"))
    _one_of("load", load, ("auto", "mmap"))
    name = _dtype_name("dtype", dtype, DTYPES)
    kv_name = _dtype_name("kv_dtype", kv_dtype, KV_DTYPES)
    if not isinstance(vision, bool):
        raise InvalidArgumentError(f"vision is {vision!r}, expected True or False")
    _count("threads", threads, MAX_THREADS, optional=True)
    _count("max_sequences", max_sequences, MAX_SEQUENCES)
    _count("kv_tokens", kv_tokens, MAX_KV_TOKENS, optional=True)
    if adapter is not None and not isinstance(adapter, (str, os.PathLike)):
        raise InvalidArgumentError(f"adapter is {type(adapter).__name__}, expected the path of an adapter's directory")
    if backend == "reference":
        _unavailable(
            "backend 'reference'",
            {
                "device": device == "cuda",
                "kv_dtype": kv_name != "auto",
                "load": load == "mmap",
                "kv_tokens": kv_tokens is not None,
            },
        )
    elif device == "cuda":
        from ..engine.cuda import check_cuda

        _unavailable("device 'cuda'", {"load": load == "mmap"})
        check_cuda()
    count = threads or read_settings().threads or 0
    where = "cuda" if device == "cuda" else "cpu"  # "auto" is the CPU until a GPU has shown that it is right
    if vision_device in ON_GPU and where != "cuda":
        raise UnsupportedError(
            f"vision_device is {vision_device!r} with device {device!r}, expected device='cuda' with it"
        )
    return Settings(
        name,
        quantization,
        kv_name,
        vision_dtype,
        load,
        count,
        max_sequences,
        kv_tokens,
        backend,
        where,
        where if vision_device == "auto" else vision_device,
    )


def _unavailable(where: str, asked: dict[str, bool]) -> None:
    for key, is_asked in asked.items():
        if is_asked:
            raise UnsupportedError(f"{key} is not available with {where}, expected its default")


def _one_of(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InvalidArgumentError(f"{name} is {value!r}, expected one of {', '.join(map(repr, choices))}")


def _dtype_name(key: str, dtype: Any, names: Sequence[str]) -> str:
    """The name of a torch dtype or string."""
    name = dtype if isinstance(dtype, str) else _torch_dtype_name(dtype)
    _one_of(key, name, ("auto", *names))
    return str(name)


def _torch_dtype_name(value: Any) -> Any:
    """The name of a torch dtype; anything else as it is. Who has a dtype of torch's has imported torch."""
    if "torch" not in sys.modules:
        return value
    import torch

    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value


def _count(name: str, value: Any, most: int, *, optional: bool = False) -> None:
    if optional and value is None:
        return
    if type(value) is not int or not 1 <= value <= most:
        raise InvalidArgumentError(f"{name} is {value!r}, expected an integer >= 1 and <= {most}")


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
        found = Path(
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
    if not (found / "config.json").is_file() and not local_files_only:
        _check_not_original(path_or_id, revision, token)
    return found


def _check_not_original(repo: str, revision: str | None, token: str | None) -> None:
    """Raises CheckpointError with the command to use if ``repo`` holds the original's pickles and no model of ours."""
    from huggingface_hub import HfApi

    from ..fetch import fetch_command

    files = HfApi(token=token).list_repo_files(repo, revision=revision)
    pickles = [name for name in files if name.endswith(".pth")]
    if pickles and not any(name.endswith(".safetensors") for name in files):
        raise CheckpointError(
            f"{repo} holds the original's checkpoints ({', '.join(sorted(pickles)[:4])}) and no converted model; "
            f"fetch and convert it with: {fetch_command(repo, files)}, then open the directory that it names"
        )
