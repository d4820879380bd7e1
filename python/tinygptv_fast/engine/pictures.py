"""Pictures for the native backend: the vision tower, made with the first of them, behind a cache by content.

Knows towers and turns; knows nothing of the engine that hands the turns out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from .. import _native
from ..checkpoint.directory import ModelDirectory
from ..heap import trim_heap
from ..protocol import Picture
from ..vision import Claim, ImageCache, Wait, choose_arithmetic, choose_on_gpu, image_key

if TYPE_CHECKING:
    from torch import Tensor

    from ..vision import VisionTower

_WAIT_S = 0.05  # for another caller's encoding of the same picture, between two looks at deadline and cancel

Turn = Callable[[], AbstractContextManager[Any]]
Check = Callable[[], None]


class PictureEncoder:
    """Encodes pictures of one model directory. Any thread may call it; one picture's steps stay in their thread.

    threads: torch's, from the first picture on; 0 leaves them. gpu: the tower is on the device that torch calls its
    first GPU; offload: its weights are there only while they compute. Raises UnsupportedError for a ``dtype`` that this
    CPU cannot compute in.
    """

    def __init__(
        self,
        directory: ModelDirectory,
        dtype: str,
        cache_bytes: int,
        threads: int = 0,
        *,
        gpu: bool = False,
        offload: bool = False,
    ) -> None:
        self._directory = directory
        self._threads = threads
        self._gpu, self._offload = gpu, offload
        stored = directory.config.quantization.vision
        if gpu:
            choose_on_gpu(dtype, stored)  # or raises
        else:
            choose_arithmetic(dtype, stored, _native.cpu_features())
        self._dtype = dtype
        self._model_id = directory.content_hash
        self._cache = ImageCache(cache_bytes)
        self._tower: VisionTower | None = None
        self._making = threading.Lock()
        self._counting = threading.Lock()
        self._active = 0  # pictures on their way

    @property
    def tower(self) -> VisionTower:
        """Made at the first call, torch imported with it, so that loading a model costs nothing here."""
        with self._making:
            if self._tower is None:
                import torch

                from ..vision import VisionTower, gpu_device

                if self._threads:
                    torch.set_num_threads(self._threads)
                device = gpu_device() if self._gpu else None
                self._tower = VisionTower(self._directory, self._dtype, gpu=device, offload=self._offload)
            return self._tower

    def warm_up(self) -> None:
        """Make the tower and encode a picture of nothing: on a GPU, all that pictures will take is taken then. Raises
        CapacityError, UnsupportedError if torch has no GPU."""
        import torch

        config = self._directory.config.vision
        assert config is not None
        self.tower.encode(torch.zeros(3, config.image_size, config.image_size))

    def encode(self, picture: Picture, turn: Turn, check: Check) -> Tensor:
        """Visual tokens f32 [NQ, C]. ``check`` may raise between two half blocks: then nothing is kept."""
        check()
        tower = self.tower  # before the claim: should it not be made, nobody waits for it
        key = image_key(picture.image, self._model_id, tower.arithmetic)
        while True:
            found = self._cache.claim(key)
            if isinstance(found, Claim):
                with self._on_its_way():
                    return _encode(found, tower, picture, nullcontext if self._gpu else turn, check)
            if not isinstance(found, Wait):
                return found
            embeddings = found.wait(_WAIT_S)
            if embeddings is not None:
                return embeddings
            check()

    @contextmanager
    def _on_its_way(self) -> Iterator[None]:
        """The last picture of several gives back what the heap kept of their activations, up to 0.3 GB."""
        with self._counting:
            self._active += 1
        try:
            yield
        finally:
            with self._counting:
                self._active -= 1
                last = self._active == 0
            if last:
                trim_heap()

    def stats(self) -> dict[str, int]:
        """Counts of the cache."""
        return dict(vars(self._cache.stats))


def _encode(claim: Claim, tower: VisionTower, picture: Picture, turn: Turn, check: Check) -> Tensor:
    """Step by step, each in a turn of its own: between two, decoding goes on. (A GPU's steps only queue work; they need
    no turn of the CPU.)"""
    try:
        encoder, over = tower.begin(picture.pixels()), False
        while not over:
            check()
            with turn():
                over = encoder.step()
        embeddings = encoder.result()
    except BaseException:
        claim.abandon()
        raise
    claim.fulfil(embeddings)
    return embeddings
