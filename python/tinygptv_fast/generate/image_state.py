"""An encoded picture that can be kept and asked later, without the vision tower."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint.safetensors_file import SafetensorsFile
from ..errors import CheckpointError, InvalidArgumentError

if TYPE_CHECKING:
    from torch import Tensor

_KIND = "tinygptv_image_state"
_VERSION = "1"
_MAX_SIDE = 1 << 20


@dataclass(frozen=True)
class ImageState:
    """The visual tokens of one picture.

    embeddings: float32 [NQ, C]. width, height: pixels of the upright original picture, for boxes. model_id: content
    id of the model that encoded it; another model refuses it.
    """

    embeddings: Tensor
    width: int
    height: int
    model_id: str

    def __post_init__(self) -> None:
        import torch

        e = self.embeddings
        if not isinstance(e, torch.Tensor) or e.ndim != 2 or e.dtype != torch.float32:
            raise InvalidArgumentError(f"embeddings is {_describe(e)}, expected a float32 tensor [NQ,C]")
        if not torch.isfinite(e).all():
            raise InvalidArgumentError("embeddings holds NaN or infinity, expected finite numbers")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file with metadata (conventionally ``.tgvi``), atomically."""
        from safetensors.torch import save

        metadata = {
            "kind": _KIND,
            "version": _VERSION,
            "width": str(self.width),
            "height": str(self.height),
            "model_id": self.model_id,
        }
        data = save({"embeddings": self.embeddings.contiguous()}, metadata)
        path = Path(path)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            partial.write_bytes(data)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ImageState:
        """Read what ``save`` wrote. Raises CheckpointError for anything else."""
        file = SafetensorsFile(path)
        metadata = file.metadata
        if metadata.get("kind") != _KIND or metadata.get("version") != _VERSION:
            raise CheckpointError(f"{path} is not an image state of version {_VERSION}")
        width, height = (_side(path, key, metadata.get(key)) for key in ("width", "height"))
        if file.names() != ["embeddings"]:
            raise CheckpointError(f"{path} holds {sorted(file.names())}, expected exactly 'embeddings'")
        try:
            return cls(file.tensor("embeddings").clone(), width, height, metadata.get("model_id", ""))
        except InvalidArgumentError as error:
            raise CheckpointError(f"{path}: {error}") from error


def _side(path: object, key: str, text: str | None) -> int:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 8 or not 0 < int(text) <= _MAX_SIDE:
        raise CheckpointError(f"{path}: {key} is {text!r}, expected pixels in 1..{_MAX_SIDE}")
    return int(text)


def _describe(value: object) -> str:
    import torch

    return f"{value.dtype} {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
