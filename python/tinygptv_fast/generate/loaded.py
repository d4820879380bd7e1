"""``LoadedModel``: a directory, its tokenizer and the backend that runs it; what can be said of them, and their end."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from ..checkpoint.directory import ModelDirectory
from ..errors import ClosedError
from ..processing.image import ImageProcessor
from ..processing.templates import Template
from ..processing.tokenizer import Tokenizer
from ..protocol import Backend
from .bridge import Bridge
from .confidence import Calibration
from .names import check_path
from .preparing import Preparer
from .saving import save_copy, save_merged
from .starting import Starter

if TYPE_CHECKING:
    from typing_extensions import Self


class LoadedModel:
    """What ``TinyGPTV`` asks. Any thread may call it; ``close`` frees it."""

    def __init__(
        self,
        directory: ModelDirectory,
        tokenizer: Tokenizer,
        backend: Backend,
        info: dict[str, Any],
        calibration: Calibration | None = None,
    ) -> None:
        self._directory = directory
        self._backend: Backend | None = backend
        self._info = info
        self._tokenizer = tokenizer
        self._preparer = Preparer(directory, tokenizer, info["model_id"], calibration)
        self._starter = Starter(self._preparer, tokenizer)
        self._bridge = Bridge()
        self._closing = threading.Lock()

    @property
    def info(self) -> dict[str, Any]:
        """What is loaded and how: path, backend, device, dtypes, quantisation, sizes, content id; of the native
        engine its instruction set, threads, KV cache and where its weights came from."""
        return dict(self._info)

    def stats(self) -> dict[str, Any]:
        """Counters and gauges of the engine now: requests, tokens, KV pages, busy time. Empty for "reference"."""
        return self._running().stats()

    @property
    def config(self) -> Any:
        """The directory's ``ModelConfig``."""
        return self._directory.config

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._tokenizer

    @property
    def image_processor(self) -> ImageProcessor | None:
        """What makes pixels of pictures; None for a model of text alone."""
        return self._preparer.images

    @property
    def default_template(self) -> Template:
        """The directory's prompt template."""
        return self._directory.template

    @property
    def prompt_room(self) -> int:
        """Positions that one request can have, prompt and answer together."""
        return min(self._directory.config.text.max_positions, self._info.get("kv_tokens") or 1 << 30)

    def default_setting(self, name: str, fallback: Any) -> Any:
        """What the directory's ``generation_config.json`` says of ``name``, else ``fallback``."""
        value = self._directory.generation_config.get(name)
        return fallback if value is None else value

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Copy the model directory to ``directory`` (new or empty), atomically; an adapter is merged into it."""
        target = check_path("directory", directory)
        if self._info.get("adapter") is None:
            save_copy(self._directory, target)
            return
        from ..checkpoint.adapter import AdaptedDirectory

        assert isinstance(self._directory, AdaptedDirectory)  # for the type checker: from_pretrained has made it
        save_merged(self._directory, target)

    def close(self) -> None:
        """Free the weights; every later call raises ClosedError. Requests under way end as cancelled. Closing twice is
        fine."""
        with self._closing:
            backend, self._backend = self._backend, None
        self._bridge.close()
        if backend is not None:
            backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _running(self) -> Backend:
        backend = self._backend
        if backend is None:
            raise ClosedError("the model is closed")
        return backend
