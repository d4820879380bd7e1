"""From a model directory to the packed weights of the native core, through the cache on disk.

Never two copies: each tensor is packed from the mapped file, whose pages are then given back. torch is imported
only where values are computed: to dequantise, or to round to bfloat16.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checkpoint.directory import ModelDirectory
from ..errors import CapacityError, CheckpointError
from ..memory import read_memory
from .forms import Forms, Matrix
from .packed_cache import PackedCache

if TYPE_CHECKING:
    from .. import _native

SMALL_BYTES = 64 << 20
"""Weights below this are packed at every start: that takes less than a tenth of a second."""

_BITS = {"int8": 8.0, "bf16": 16.0, "f32": 32.0}
_log = logging.getLogger("tinygptv_fast")


@dataclass(frozen=True)
class Loaded:
    """Packed weights, and where they came from: "packed", "cache" or "mapped"."""

    weights: _native.Weights
    source: str


def load_weights(
    directory: ModelDirectory, forms: Forms, cache: PackedCache | None, *, mapped: bool = False, threads: int = 0
) -> Loaded:
    """The weights of ``directory`` in ``forms``, from ``cache`` where they are there already.

    mapped: share one read-only copy with every process that asks for the same, instead of memory of our own. A cache
    that cannot be written costs a notice in the log, nothing else. Raises CheckpointError, CapacityError.
    """
    key, size = forms.key(directory.content_hash), packed_bytes(directory, forms)
    if not mapped:
        _check_memory(size)
    if cache is None or (size < SMALL_BYTES and not mapped):
        if mapped:
            _log.warning("load='mmap' needs the packed cache, which is switched off: weights are packed in memory")
        return Loaded(pack(directory, forms, key), "packed")
    mode = "map" if mapped else "streamed"
    found = cache.load(key, mode, threads)
    if found is None:
        with cache.lock(key) as ours:
            found = cache.load(key, mode, threads)  # somebody may have packed it while we waited
            if found is None:
                weights = pack(directory, forms, key)
                saved = ours and cache.save(key, weights)
                if not (saved and mapped):
                    return Loaded(weights, "packed")
                del weights
                found = cache.load(key, mode, threads)
                if found is None:  # removed by somebody in this instant
                    return Loaded(pack(directory, forms, key), "packed")
    return Loaded(found, "mapped" if mapped else "cache")


def pack(directory: ModelDirectory, forms: Forms, key: str) -> _native.Weights:
    """Pack every text tensor, one at a time. ``key`` becomes the weights' id."""
    from .. import _native

    config = directory.config.text
    try:
        weights = _native.Weights(dataclasses.asdict(config), forms.native(), key)
    except MemoryError as error:
        raise CapacityError(f"no memory for {packed_bytes(directory, forms)} bytes of weights") from error
    fill(weights, directory, forms)
    return weights


def fill(weights: _native.Weights | _native.CudaWeights, directory: ModelDirectory, forms: Forms) -> None:
    """Put every text tensor, one at a time."""
    for name in directory.names():
        if name.startswith("text."):
            _put(weights, directory, name, forms)
            directory.release(name)


def packed_bytes(directory: ModelDirectory, forms: Forms) -> int:
    """About what the packed weights take: padding apart."""
    names = [name for name in directory.names() if name.startswith("text.")]
    return text_bytes({name: directory.shape(name) for name in names}, forms)


def text_bytes(shapes: Mapping[str, tuple[int, ...]], forms: Forms) -> int:
    """About what tensors of these names and shapes take when packed in ``forms``: padding apart."""
    bits = 0.0
    for name, shape in shapes.items():
        bits += math.prod(shape) * (_bits(_form(name, forms)) if len(shape) == 2 else 32.0)
    return int(bits / 8)


def _bits(form: Matrix) -> float:
    if form.kind != "int4":
        return _BITS[form.kind]
    return 4.0 + (16.0 if form.symmetric else 20.0) / form.group_size


def _form(name: str, forms: Forms) -> Matrix:
    if name == "text.head.weight":
        return forms.head
    return Matrix(forms.embedding, 0, True) if name == "text.embed.weight" else forms.body


def _put(weights: _native.Weights | _native.CudaWeights, directory: ModelDirectory, name: str, forms: Forms) -> None:
    if len(directory.shape(name)) == 1:
        weights.put_vector(name, _floats(directory, name))
        return
    stem, kind = name.removesuffix(".weight"), _form(name, forms).kind
    if kind in ("f32", "f16"):  # which the GPU's weights round
        weights.put_f32(stem, _floats(directory, name))
    elif kind == "bf16":
        weights.put_bf16(stem, _bfloat16_bits(directory, name))
    elif directory.kind(name) != kind:
        raise CheckpointError(f"{directory.path}: {name} is stored as {directory.kind(name)}, expected {kind}")
    else:
        _put_quantized(weights, directory, name, stem)


def _put_quantized(
    weights: _native.Weights | _native.CudaWeights, directory: ModelDirectory, name: str, stem: str
) -> None:
    qweight, scales, *zeros = _stored(directory, name)
    if directory.kind(name) == "int4":
        weights.put_int4(stem, qweight, scales, *zeros or [None])
    else:
        weights.put_int8(stem, qweight, scales)


def _stored(directory: ModelDirectory, name: str) -> list[Any]:
    """The arrays that store ``name``; older stubs of numpy do not say that they are buffers."""
    return list(directory.arrays(name))


def _floats(directory: ModelDirectory, name: str) -> Any:
    """``name`` in float32, as a buffer. Nothing is rounded."""
    kind = "computed" if directory.computed(name) else directory.kind(name)
    if kind in ("float32", "float16"):
        return _stored(directory, name)[0].astype(np.float32, copy=False)
    if kind == "bfloat16":
        return (_stored(directory, name)[0].astype(np.uint32) << 16).view(np.float32)
    return directory.dequantized(name).float().contiguous().numpy()


def _bfloat16_bits(directory: ModelDirectory, name: str) -> Any:
    """``name`` in bfloat16, as a buffer of uint16."""
    if directory.kind(name) == "bfloat16" and not directory.computed(name):
        return _stored(directory, name)[0]
    import torch

    from ..quantize.bfloat16 import to_bfloat16

    return to_bfloat16(directory.dequantized(name), name=name).contiguous().view(torch.uint16).numpy()


def _check_memory(needed: int) -> None:
    """The kernel would rather kill a process than refuse it memory: say it before."""
    usable = read_memory().usable_bytes
    if needed > usable:
        raise CapacityError(
            f"the packed weights need {needed / 1e9:.2f} GB, {usable / 1e9:.2f} GB of memory are free: "
            "free some, convert to fewer bits, or share one copy with load='mmap'"
        )
