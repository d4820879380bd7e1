"""From a checked directory and settings to a running backend and the tokenizer it goes with."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import engine
from ..checkpoint.directory import ModelDirectory
from ..env import read_settings
from ..processing.tokenizer import Tokenizer
from ..protocol import Backend
from .loading import ON_GPU, Settings

if TYPE_CHECKING:
    from .. import _native
    from ..engine.pictures import PictureEncoder


def open_backend(directory: ModelDirectory, settings: Settings, vision: bool) -> tuple[Tokenizer, Backend]:
    """The backend that ``settings`` name. The tokenizer is read while the weights are."""
    with ThreadPoolExecutor(1, thread_name_prefix="tinygptv-tokenizer") as pool:
        tokenizer = pool.submit(Tokenizer.from_file, directory.tokenizer_file)
        if settings.backend == "reference":
            from .reference_backend import ReferenceBackend

            dtype = "float32" if settings.dtype == "auto" else settings.dtype
            words = tokenizer.result()
            token_bytes = words.token_bytes(directory.config.text.vocab_size)
            return words, ReferenceBackend(directory, dtype, token_bytes, vision=vision)
        pictures = _pictures(directory, settings) if vision else None
        if pictures is not None and settings.vision_device in ON_GPU:
            pictures.warm_up()  # before what is left of the GPU's memory is planned
        ready = _on_gpu(directory, settings) if settings.device == "cuda" else _on_cpu(directory, settings)
        words = tokenizer.result()
    text = directory.config.text
    with ready.explaining:
        backend = engine.NativeBackend(
            ready.weights,
            text,
            kv_kind=engine.KV_KINDS[ready.kv_dtype],
            kv_tokens=ready.kv_tokens,
            max_sequences=settings.max_sequences,
            threads=settings.threads,
            isa=read_settings().cpu_isa,
            token_bytes=words.token_bytes(text.vocab_size),
            pictures=pictures,
            facts={"dtype": ready.forms.dtype, "kv_dtype": ready.kv_dtype, **ready.facts},
        )
    return words, backend


@dataclass(frozen=True)
class _Ready:
    """Weights where the device reads them, and how large a cache goes with them. explaining: entered around what takes
    the cache's memory."""

    weights: _native.Weights | _native.CudaWeights
    forms: engine.Forms
    kv_dtype: str
    kv_tokens: int
    facts: dict[str, Any]
    explaining: AbstractContextManager[None]


def _on_cpu(directory: ModelDirectory, settings: Settings) -> _Ready:
    forms = engine.choose_forms(directory, settings.dtype)
    cache = engine.PackedCache.from_environment()
    loaded = engine.load_weights(directory, forms, cache, mapped=settings.load == "mmap", threads=settings.threads)
    text, kv_dtype = directory.config.text, forms.kv_dtype(settings.kv_dtype)
    kind = engine.KV_KINDS[kv_dtype]
    kv_tokens = settings.kv_tokens or engine.choose_kv_tokens(text, kind, settings.max_sequences)
    facts = {"weights_from": loaded.source, "weights_mapped": loaded.weights.mapped}
    return _Ready(loaded.weights, forms, kv_dtype, kv_tokens, facts, nullcontext())


def _on_gpu(directory: ModelDirectory, settings: Settings) -> _Ready:
    from ..engine.cuda import choose_cuda_forms, describe_cuda, load_cuda_weights, plan_memory

    forms = choose_cuda_forms(directory, settings.dtype)
    kv_dtype = forms.kv_dtype(settings.kv_dtype)
    plan = plan_memory(
        directory.config.text,
        forms,
        kv_kind=engine.KV_KINDS[kv_dtype],
        kv_tokens=settings.kv_tokens,
        max_sequences=settings.max_sequences,
    )
    weights = load_cuda_weights(directory, forms, plan)
    facts = {**describe_cuda(), "arena_bytes": plan.arena_bytes, "weights_from": "packed", "weights_mapped": False}
    return _Ready(weights, forms, kv_dtype, plan.kv_tokens, facts, plan.explaining())


def _pictures(directory: ModelDirectory, settings: Settings) -> PictureEncoder:
    """``dtype="float32"`` is the exact mode: the vision side is computed in float32 then, unless asked otherwise."""
    from ..engine.pictures import PictureEncoder

    exact = settings.dtype == "float32" and settings.vision_dtype == "auto"
    dtype = "float32" if exact else settings.vision_dtype
    return PictureEncoder(
        directory,
        dtype,
        read_settings().image_cache_bytes,
        settings.threads,
        gpu=settings.vision_device in ON_GPU,
        offload=settings.vision_device == "offload",
    )
