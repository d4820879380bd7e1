"""What the frozen vision side says of a picture, remembered: it is never trained, so it sees each picture once."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...errors import InvalidArgumentError
from ...processing.image import ImageProcessor
from ...reference.model import TinyGPTVReference


class FrozenVision:
    """Pictures → the frozen part's rows: after the Q-Former [NQ, Q] or, when that is trained, before it [I, E].

    Rows are kept in memory up to ``limit_bytes`` (least recently used go first) and, with ``folder``, on the disk under
    a name made of the picture's bytes and ``identity``, the vision weights' own.
    """

    def __init__(
        self,
        model: TinyGPTVReference,
        processor: ImageProcessor | None,
        *,
        before_qformer: bool = False,
        identity: str = "",
        folder: Path | None = None,
        limit_bytes: int = 1 << 30,
    ) -> None:
        self._model, self._processor, self._before = model, processor, before_qformer
        self._identity, self._folder, self._limit = identity, folder, limit_bytes
        self._kept: OrderedDict[Any, Tensor] = OrderedDict()
        self._bytes = 0

    def rows(self, images: Sequence[Any]) -> list[Tensor]:
        """f32 rows of each image (path, bytes of a file, PIL, or already rows), in order. Raises ImageError for a bad
        picture."""
        keys = [image if isinstance(image, Tensor) else _key(image) for image in images]
        missing: dict[Any, Any] = {}
        out: dict[int, Tensor] = {}
        for index, (key, image) in enumerate(zip(keys, images, strict=True)):
            if isinstance(image, Tensor):
                out[index] = self._check(image)
            elif (found := self._find(key, image)) is not None:
                out[index] = found
            else:
                missing[key] = image
        fresh = self._see(missing)
        return [out[index] if index in out else fresh[key] for index, key in enumerate(keys)]

    @torch.no_grad()
    def _see(self, images: dict[Any, Any]) -> dict[Any, Tensor]:
        """One picture at a time: in a larger product a picture's rows would depend, in the last bit, on its company,
        and so on where a run was stopped."""
        out: dict[Any, Tensor] = {}
        device = self._model.text.embed.weight.device
        for key, image in images.items():
            if self._processor is None:
                raise InvalidArgumentError("this run has no image processor: give rows of the Q-Former instead")
            with torch.autocast(device.type, enabled=False):
                seen = self._model.ln_vision(self._model.vision(self._processor.pixels(image)[None].to(device)))
                rows = seen if self._before else self._model.qformer(seen)
            out[key] = rows[0].float().cpu()
            self._keep(key, image, out[key])
        return out

    def _find(self, key: Any, image: Any) -> Tensor | None:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        file = self._file(image)
        if file is None or not file.is_file():
            return None
        try:
            rows = load_file(file)["rows"]
        except Exception:  # a file cut short by a crash: seen again and written again
            return None
        self._remember(key, rows)
        return rows

    def _keep(self, key: Any, image: Any, rows: Tensor) -> None:
        self._remember(key, rows)
        file = self._file(image)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_suffix(f".{os.getpid()}.tmp")
            save_file({"rows": rows}, temporary)
            os.replace(temporary, file)

    def _remember(self, key: Any, rows: Tensor) -> None:
        self._kept[key] = rows
        self._bytes += rows.nbytes
        while self._bytes > self._limit and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes

    def _file(self, image: Any) -> Path | None:
        if self._folder is None or not isinstance(image, (str, Path, bytes)):
            return None
        digest = hashlib.sha256(self._identity.encode() + b"\0" + bytes([self._before]))
        digest.update(image if isinstance(image, bytes) else Path(image).read_bytes())
        return self._folder / f"{digest.hexdigest()[:40]}.safetensors"

    def _check(self, rows: Tensor) -> Tensor:
        config = self._model.config
        assert config.vision is not None and config.qformer is not None
        after = [config.qformer.queries, config.qformer.width]
        wanted = [config.vision.tokens, config.vision.width] if self._before else after
        if list(rows.shape) != wanted:
            what = "[I,E] (the Q-Former is trained)" if self._before else "[NQ,Q]"
            raise InvalidArgumentError(f"image rows are {list(rows.shape)}, expected {what}={wanted}")
        return rows


def _key(image: Any) -> Any:
    """Paths by name, pictures in memory by identity of their bytes."""
    if isinstance(image, (str, Path)):
        return str(image)
    if isinstance(image, bytes):
        return hashlib.sha256(image).digest()
    return hashlib.sha256(image.tobytes() + repr(image.size).encode() + image.mode.encode()).digest()
