"""The engine's weights on a GPU: whether there is one, which forms its kernels have, what fits, and the filling.

Weights go from the mapped file to the GPU, tensor by tensor, at every start: nothing is kept on disk. Knows no request.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..checkpoint.directory import ModelDirectory
from ..config import TextConfig
from ..env import read_settings
from ..errors import CapacityError, InvalidArgumentError, UnsupportedError
from .forms import Forms, Matrix, choose_forms
from .native_backend import kv_token_bytes
from .pages import PAGE_TOKENS
from .weights import fill

if TYPE_CHECKING:
    from .. import _native

_KV_SHARE = 0.9  # "auto" leaves the rest of what the weights leave to others


def check_cuda() -> None:
    """Raises UnsupportedError with the one reason why no GPU can be used here."""
    from .. import _native

    if read_settings().cuda_emulation:
        return
    why_not = _native.cuda_why_not()
    if why_not:
        raise UnsupportedError(f"device is 'cuda', but it cannot be used: {why_not}")


def describe_cuda() -> dict[str, object]:
    """The device that computes, for ``TinyGPTV.info``."""
    from .. import _native

    if read_settings().cuda_emulation:
        return {"device": "cuda", "gpu": "an emulation on the CPU, for tests"}
    return {"device": "cuda", "gpu": _native.cuda_device_info(0)["name"]}


def choose_cuda_forms(directory: ModelDirectory, dtype: str) -> Forms:
    """As ``choose_forms`` has it, but float16 stays float16."""
    config = directory.config
    if dtype == "auto" and config.quantization.text == "none" and config.dtype == "float16":
        matrix = Matrix("f16", config.quantization.group_size, True)
        return Forms(matrix, matrix, "f16")
    return choose_forms(directory, dtype)


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on the GPU before any is allocated. kv_bytes: of ``kv_tokens`` positions, which cost ``token_bytes`` each.
    pinned_bytes: of the host's memory."""

    weights_bytes: int
    kv_bytes: int
    arena_bytes: int
    pinned_bytes: int
    free_bytes: int
    total_bytes: int
    kv_tokens: int
    token_bytes: int

    @property
    def affordable_tokens(self) -> int:
        """Whole pages of positions that what is left has room for."""
        left = self.free_bytes - self.weights_bytes - self.arena_bytes
        return max(left, 0) // self.token_bytes // PAGE_TOKENS * PAGE_TOKENS

    @property
    def fits(self) -> bool:
        return self.weights_bytes + self.kv_bytes + self.arena_bytes <= self.free_bytes

    def sizes(self) -> str:
        """What is needed and what there is, for an error."""
        return (
            f"needed are {self.weights_bytes} bytes of weights, {self.kv_bytes} of keys and values for "
            f"{self.kv_tokens} positions and {self.arena_bytes} to compute in; of the GPU's {self.total_bytes} bytes "
            f"{self.free_bytes} are free"
        )

    def advice(self) -> str:
        """What would fit."""
        if self.affordable_tokens:
            return f"kv_tokens={self.affordable_tokens} would fit"
        return "not even one page of positions would fit: free some, lower max_sequences or convert to fewer bits"

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Around what takes the memory: a CapacityError says that somebody was faster, and what was planned."""
        try:
            yield
        except CapacityError as error:
            raise CapacityError(f"{error}; it was free when this was planned: {self.sizes()}") from error


def plan_memory(
    text: TextConfig,
    forms: Forms,
    *,
    kv_kind: str,
    kv_tokens: int | None,
    max_sequences: int,
    share: float = _KV_SHARE,
    steps: tuple[int, int] | None = None,
) -> MemoryPlan:
    """What the weights and the engine will take. kv_tokens None: full contexts for ``max_sequences``, no more than
    ``share`` of what fits, no less than one. steps: of a ``_native.Decoder`` instead of an engine, over weights that
    are there already: tokens and rows of logits of its steps. Raises CapacityError saying what would fit,
    UnsupportedError for sizes no kernel has."""

    def plan(tokens: int) -> MemoryPlan:
        from .. import _native

        try:
            found = _native.cuda_memory_plan(
                dataclasses.asdict(text),
                forms.native(),
                kv_kind=kv_kind,
                kv_tokens=tokens,
                max_sequences=max_sequences,
                steps=steps,
                emulation=read_settings().cuda_emulation,
            )
        except InvalidArgumentError as error:
            raise UnsupportedError(f"the CUDA kernels cannot take this model: {error}") from error
        if steps is not None:
            found["weights_bytes"] = 0
        return MemoryPlan(**found, kv_tokens=tokens, token_bytes=kv_token_bytes(text, kv_kind))

    chosen = plan(kv_tokens or _whole_pages(max_sequences * text.max_positions))
    if kv_tokens is None:
        affordable = int(chosen.affordable_tokens * share)
        chosen = plan(_whole_pages(max(min(chosen.kv_tokens, affordable), text.max_positions)))
    if not chosen.fits:
        raise CapacityError(f"no room on the GPU: {chosen.sizes()}; {chosen.advice()}")
    return chosen


def _whole_pages(tokens: int) -> int:
    return -(-tokens // PAGE_TOKENS) * PAGE_TOKENS


def make_cuda_weights(text: TextConfig, forms: Forms, key: str, plan: MemoryPlan) -> _native.CudaWeights:
    """Room for the weights on the GPU. Raises CapacityError where somebody took the memory since ``plan``."""
    from .. import _native

    emulation = read_settings().cuda_emulation
    if emulation:
        # Not a line in the log, which nobody sees unless they ask for it.
        warnings.warn(f"device='cuda' is an emulation on the CPU, for tests: {emulation}", RuntimeWarning, stacklevel=2)
    with plan.explaining():
        return _native.CudaWeights(dataclasses.asdict(text), forms.native(), key, emulation=emulation)


def load_cuda_weights(directory: ModelDirectory, forms: Forms, plan: MemoryPlan) -> _native.CudaWeights:
    """The weights of ``directory`` on the GPU. Raises CapacityError where somebody took the memory since ``plan``."""
    weights = make_cuda_weights(directory.config.text, forms, forms.key(directory.content_hash), plan)
    fill(weights, directory, forms)
    return weights
