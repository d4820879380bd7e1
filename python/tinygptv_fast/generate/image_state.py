"""An encoded picture that can be kept and asked later, without the vision tower."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checkpoint.mapped import TensorInfo
from ..checkpoint.safetensors_file import SafetensorsFile
from ..errors import CheckpointError, InvalidArgumentError
from . import image_pages
from .names import check_path

if TYPE_CHECKING:
    from torch import Tensor

    from .. import _native

_KIND = "tinygptv_image_state"
_VERSION, _WITH_PAGES = "2", "3"
_MAX_SIDE = 1 << 20
MAX_FILE_BYTES = 1 << 28
DTYPES = ("float32", "int8")
_LEVELS = 127
_FACTS = ("width", "height", "model_id")


@dataclass(frozen=True)
class ImageState:
    """The visual tokens of one picture, and perhaps what a prompt that begins with it has in the KV cache.

    embeddings: float32 [NQ, C]. width, height: pixels of the upright original picture, for boxes. model_id: content
    id of the model that encoded it; another model refuses it. pages: keys and values of a prompt's first positions,
    made by ``encode_image(..., pages=True)``; opaque. A request whose prompt they are not of refuses the state.
    """

    embeddings: Tensor
    width: int
    height: int
    model_id: str
    pages: _native.PrefixPages | None = None

    def __post_init__(self) -> None:
        import torch

        e = self.embeddings
        if not isinstance(e, torch.Tensor) or e.ndim != 2 or e.dtype != torch.float32:
            raise InvalidArgumentError(f"embeddings is {_describe(e)}, expected a float32 tensor [NQ,C]")
        if not torch.isfinite(e).all():
            raise InvalidArgumentError("embeddings holds NaN or infinity, expected finite numbers")

    def without_pages(self) -> ImageState:
        """The same picture by its embeddings alone."""
        return replace(self, pages=None)

    def save(self, path: str | os.PathLike[str], *, dtype: str = "float32") -> None:
        """Write a safetensors file with metadata (conventionally ``.tgvi``), atomically; pages go with it.

        dtype: "float32" keeps every bit, 4·NQ·C bytes. "int8" takes a quarter: each row as int8 with one float32 scale,
        max|row| / 127, so that no number is off by more than half a scale. Raises InvalidArgumentError for another
        dtype, and for "int8" of a state with pages, which are those of the rows as they are.
        """
        from safetensors.numpy import save

        path = check_path("path", path)
        if dtype not in DTYPES:
            raise InvalidArgumentError(f"dtype is {dtype!r}, expected one of {', '.join(map(repr, DTYPES))}")
        if dtype != "float32" and self.pages is not None:
            raise InvalidArgumentError(
                f"dtype is {dtype!r} for a state with pages, which are those of its float32 rows; expected 'float32', "
                "or state.without_pages()"
            )
        rows = self.embeddings.detach().cpu().contiguous().numpy()
        tensors = {"embeddings": rows} if dtype == "float32" else dict(zip(_NAMES, _quantized(rows), strict=True))
        facts = {"width": str(self.width), "height": str(self.height), "model_id": self.model_id}
        if self.pages is not None:
            more, about = image_pages.to_file(self.pages)
            tensors, facts = tensors | more, facts | about
        version = _VERSION if self.pages is None else _WITH_PAGES
        metadata = {"kind": _KIND, "version": version, **facts, "sha256": _digest(facts, tensors)}
        data = save(tensors, metadata)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            partial.write_bytes(data)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ImageState:
        """Read what ``save`` wrote. Raises CheckpointError for anything else: also where the content is not what its
        hash says, so that no answer is about half a picture, or another one."""
        import torch

        file = SafetensorsFile(check_path("path", path))
        metadata = file.metadata
        version = metadata.get("version")
        if metadata.get("kind") != _KIND or version not in (_VERSION, _WITH_PAGES):
            raise CheckpointError(f"{path} is not an image state of version {_VERSION} or {_WITH_PAGES}")
        if file.size > MAX_FILE_BYTES:
            raise CheckpointError(f"{path} has {file.size} bytes, expected at most {MAX_FILE_BYTES}")
        width, height = (_side(path, key, metadata.get(key)) for key in ("width", "height"))
        has_pages = version == _WITH_PAGES
        tensors = _tensors(file, metadata.get("kv_kind") if has_pages else None, has_pages)
        keys = (*_FACTS, *image_pages.FACTS) if has_pages else _FACTS
        facts = {key: metadata.get(key, "") for key in keys}
        if metadata.get("sha256") != _digest(facts, tensors):
            raise CheckpointError(f"{path} does not have the content that its sha256 was made of: it is damaged")
        rows = tensors["embeddings"]
        if "scales" in tensors:
            rows = _dequantized(path, rows, tensors["scales"])
        try:
            state = cls(torch.from_numpy(rows.copy()), width, height, facts["model_id"])
        except InvalidArgumentError as error:
            raise CheckpointError(f"{path}: {error}") from error
        return replace(state, pages=image_pages.from_file(path, rows, tensors, facts)) if has_pages else state


_NAMES = ("embeddings", "scales")


def _quantized(rows: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """int8 [NQ, C] in -127..127 and float32 [NQ] of float32 rows [NQ, C]."""
    scales = (np.abs(rows).max(axis=1, initial=0.0) / np.float32(_LEVELS)).astype(np.float32)
    divisor = np.where(scales > 0, scales, np.float32(1))[:, None]
    return np.clip(np.rint(rows / divisor), -_LEVELS, _LEVELS).astype(np.int8), scales


def _dequantized(path: object, rows: np.ndarray[Any, Any], scales: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if (rows < -_LEVELS).any() or not np.isfinite(scales).all() or (scales < 0).any():
        raise CheckpointError(f"{path}: its numbers are none that save writes, expected -127..127 and scales >= 0")
    with np.errstate(over="ignore"):  # what overflows is refused with everything that is not finite
        return rows.astype(np.float32) * scales[:, None].astype(np.float32)


def _tensors(file: SafetensorsFile, kv_kind: str | None, has_pages: bool) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of a file that has exactly those of one dtype, in their shapes, and of pages if it ``has_pages``."""
    infos = {name: file.info(name) for name in file.names()}
    if has_pages:
        pages = {name: infos.pop(name) for name in image_pages.NAMES if name in infos}
        image_pages.check_infos(file.path, kv_kind, pages)
    if not _are_rows(infos, exact=has_pages):
        held = ", ".join(f"{name} {infos[name]}" for name in sorted(infos)[:3])
        raise CheckpointError(
            f"{file.path} holds {held or 'nothing'}; expected embeddings F32 [NQ,C], or I8 with scales F32 [NQ]"
        )
    return {name: file.array(name) for name in file.names()}


def _are_rows(infos: dict[str, TensorInfo], *, exact: bool) -> bool:
    """Whether these are a picture's rows in float32 or, unless they have to be ``exact``, in int8."""
    rows = infos.get("embeddings")
    if rows is None or len(rows.shape) != 2:
        return False
    if infos == {"embeddings": TensorInfo(rows.shape, "F32")}:
        return True
    return not exact and infos == {
        "embeddings": TensorInfo(rows.shape, "I8"),
        "scales": TensorInfo(rows.shape[:1], "F32"),
    }


def _digest(facts: dict[str, str], tensors: dict[str, np.ndarray[Any, Any]]) -> str:
    """sha256 of the facts and of each tensor's name, shape and bytes."""
    digest = hashlib.sha256("\n".join(f"{key} {facts[key]!r}" for key in sorted(facts)).encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"\n{name} {array.dtype.name} {list(array.shape)}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _side(path: object, key: str, text: str | None) -> int:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 8 or not 0 < int(text) <= _MAX_SIDE:
        raise CheckpointError(f"{path}: {key} is {text!r}, expected pixels in 1..{_MAX_SIDE}")
    return int(text)


def _describe(value: object) -> str:
    import torch

    return f"{value.dtype} {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
