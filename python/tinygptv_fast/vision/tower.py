"""The production vision side: pixels to the rows the text model reads, whole or half a block at a time.

Standard torch ops, on the CPU or a GPU. Weights come from a ``WeightSource`` (a model directory is one) and are held
once. Knows nothing of pictures, requests or caches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from .. import _native
from ..config import ModelConfig, QFormerConfig, VisionConfig
from ..errors import CancelledError, CapacityError, InvalidArgumentError, UnsupportedError
from .arithmetic import Arithmetic, choose_arithmetic, choose_on_gpu
from .blocks import (
    CrossAttention,
    PatchEmbedding,
    Projection,
    QFormerMLP,
    Queries,
    Rows,
    SelfAttention,
    VisionAttention,
    VisionMLP,
)
from .gpu import OnDevice
from .offload import Offloaded
from .source import WeightSource

Step = Callable[[Rows], None]
StepMaker = Callable[[WeightSource, Arithmetic], Step]


class VisionTower:
    """EVA ViT → ln_vision → Q-Former → projector. Immutable: any number of threads may encode at once.

    source: a ``ModelDirectory``, or anything with its four methods. dtype: 'auto', 'float32', 'bfloat16' or 'int8'
    (``arithmetic.choose_arithmetic`` says what 'auto' is). features: what the CPU has, by default this one's. gpu:
    compute there, in its arithmetic (``arithmetic.choose_on_gpu``); pixels come from the CPU and visual tokens go back.
    offload: keep the weights on the host, and bring those of a step to the GPU while it computes.
    Raises UnsupportedError for a text-only model and for int8 on a CPU that cannot, InvalidArgumentError for another
    dtype, CheckpointError for weights that cannot be used, CapacityError without room on the GPU.

    The same pixels give the same embeddings, bit for bit, on one machine with one number of torch threads
    (``torch.set_num_threads``; the library under the products may cut sums differently for another number).
    """

    def __init__(
        self,
        source: WeightSource,
        dtype: str = "auto",
        *,
        features: Mapping[str, bool] | None = None,
        gpu: torch.device | None = None,
        offload: bool = False,
    ) -> None:
        config = source.config
        if config.vision is None or config.qformer is None:
            raise UnsupportedError("this model has no vision tower: it is text-only")
        available = _native.cpu_features() if features is None else features
        stored = config.quantization.vision
        self.config: ModelConfig = config
        self.arithmetic: Arithmetic = (
            choose_arithmetic(dtype, stored, available) if gpu is None else choose_on_gpu(dtype, stored)
        )
        self._size = config.vision.image_size
        self._device = torch.device("cpu") if gpu is None else gpu
        weights = source if gpu is None or offload else OnDevice(source, gpu)
        with _explaining():
            makers = step_makers(config.vision, config.qformer)
            steps: list[Step] = [make(weights, self.arithmetic) for make in makers]
            if gpu is not None and offload:
                steps = [Offloaded(step, gpu) for step in steps]
            self._steps: Sequence[Step] = steps

    @property
    def steps(self) -> int:
        """How many calls of ``Encoder.step`` a picture takes."""
        return len(self._steps)

    def begin(self, pixels: Tensor) -> Encoder:
        """An encoder of ``pixels`` float32 [3, S, S] (``ImageProcessor.pixels``); nothing is computed yet.

        Raises InvalidArgumentError for another shape or dtype, NaN and infinity.
        """
        self._check(pixels)
        return Encoder(self._steps, pixels, self._device)

    def encode(self, pixels: Tensor) -> Tensor:
        """``pixels`` float32 [3, S, S] → visual tokens float32 [NQ, C]. Raises what ``begin`` raises."""
        encoder = self.begin(pixels)
        while not encoder.step():
            pass
        return encoder.result()

    def _check(self, pixels: Tensor) -> None:
        wanted = (3, self._size, self._size)
        if not isinstance(pixels, Tensor):
            raise InvalidArgumentError(f"pixels is {type(pixels).__name__}, expected a float32 tensor {list(wanted)}")
        if tuple(pixels.shape) != wanted or pixels.dtype != torch.float32 or pixels.device.type != "cpu":
            what = f"{list(pixels.shape)} {str(pixels.dtype).removeprefix('torch.')} on {pixels.device}"
            raise InvalidArgumentError(f"pixels is {what}, expected {list(wanted)} float32 on cpu")
        if not bool(torch.isfinite(pixels).all()):
            raise InvalidArgumentError("pixels holds NaN or infinity, expected finite numbers")


class Encoder:
    """One picture on its way through the tower. One thread steps it; any thread may ``cancel``."""

    def __init__(self, steps: Sequence[Step], pixels: Tensor, device: torch.device) -> None:
        self._steps = steps
        with _explaining():
            self._rows: Rows | None = Rows(pixels.detach().contiguous().to(device))
        self._next = 0
        self._cancelled = False

    @property
    def remaining(self) -> int:
        """Calls of ``step`` that are left."""
        return len(self._steps) - self._next

    @torch.no_grad()
    def step(self) -> bool:
        """Compute half a block: an attention or an MLP. True once all is done (more calls do nothing). A GPU may still
        be at it then; ``result`` waits.

        Raises CancelledError after ``cancel``, CapacityError without room on the GPU. A step that raises anything else
        has changed nothing.
        """
        rows = self._open()
        if self._next < len(self._steps):
            with _explaining():
                self._steps[self._next](rows)
            self._next += 1
        return self._next == len(self._steps)

    def result(self) -> Tensor:
        """On the CPU, float32 [NQ, C]. Raises CancelledError after ``cancel``, and InvalidArgumentError early."""
        rows = self._open()
        if self.remaining:
            raise InvalidArgumentError(
                f"result of an unfinished encoder: {self.remaining} of {len(self._steps)} steps left"
            )
        return rows.x.cpu()

    def cancel(self) -> None:
        """Give the picture up. A step that runs in another thread ends first. Twice is once."""
        self._cancelled = True
        self._rows = None

    def _open(self) -> Rows:
        rows = self._rows
        if self._cancelled or rows is None:
            raise CancelledError(f"the encoding of this picture was cancelled with {self.remaining} steps left")
        return rows


@contextlib.contextmanager
def _explaining() -> Iterator[None]:
    """Around what takes memory of a GPU."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CapacityError(
            "no room on the GPU for the vision side: free some, or give a smaller kv_tokens, vision_dtype='int8', "
            "vision_device='offload' or vision_device='cpu'"
        ) from error


def step_makers(vision: VisionConfig, qformer: QFormerConfig) -> list[StepMaker]:
    """What builds each step from its weights, in order; a step reads no weights of another."""
    out: list[StepMaker] = [lambda source, how: PatchEmbedding(source, vision)]
    for index in range(vision.layers):
        out += [partial(_of, VisionAttention, index, vision), partial(_of, VisionMLP, index, vision)]
    out.append(lambda source, how: Queries(source, qformer, vision.ln_vision_eps))
    for index in range(qformer.layers):
        out.append(partial(_of, SelfAttention, index, qformer))
        if index % qformer.cross_attention_every == 0:
            out.append(partial(_of, CrossAttention, index, qformer))
        out.append(partial(_of, QFormerMLP, index, qformer))
    return [*out, lambda source, how: Projection(source)]


def _of(part: Callable[..., Step], index: int, config: object, source: WeightSource, how: Arithmetic) -> Step:
    return part(source, index, config, how)
