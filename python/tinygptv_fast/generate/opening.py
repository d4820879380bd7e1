"""From a checked directory and settings to a running backend and the tokenizer it goes with."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from .. import engine
from ..checkpoint.directory import ModelDirectory
from ..env import read_settings
from ..processing.tokenizer import Tokenizer
from ..protocol import Backend
from .loading import Settings

if TYPE_CHECKING:
    from ..engine.pictures import PictureEncoder


def open_backend(directory: ModelDirectory, settings: Settings, vision: bool) -> tuple[Tokenizer, Backend]:
    """The backend that ``settings`` name. The tokenizer is read while the weights are."""
    with ThreadPoolExecutor(1, thread_name_prefix="tinygptv-tokenizer") as pool:
        tokenizer = pool.submit(Tokenizer.from_file, directory.tokenizer_file)
        if settings.backend == "reference":
            from .reference_backend import ReferenceBackend

            dtype = "float32" if settings.dtype == "auto" else settings.dtype
            return tokenizer.result(), ReferenceBackend(directory, dtype, vision=vision)
        forms = engine.choose_forms(directory, settings.dtype)
        cache = engine.PackedCache.from_environment()
        loaded = engine.load_weights(directory, forms, cache, mapped=settings.load == "mmap", threads=settings.threads)
        words = tokenizer.result()
    text, kv_dtype = directory.config.text, forms.kv_dtype(settings.kv_dtype)
    kind = engine.KV_KINDS[kv_dtype]
    kv_tokens = settings.kv_tokens or engine.choose_kv_tokens(text, kind, settings.max_sequences)
    backend = engine.NativeBackend(
        loaded.weights,
        text,
        kv_kind=kind,
        kv_tokens=kv_tokens,
        max_sequences=settings.max_sequences,
        threads=settings.threads,
        isa=read_settings().cpu_isa,
        token_bytes=words.token_bytes(text.vocab_size),
        pictures=_pictures(directory, settings) if vision else None,
        facts={"dtype": forms.dtype, "kv_dtype": kv_dtype, "weights_from": loaded.source},
    )
    return words, backend


def _pictures(directory: ModelDirectory, settings: Settings) -> PictureEncoder:
    """``dtype="float32"`` is the exact mode: the vision side is computed in float32 then, unless asked otherwise."""
    from ..engine.pictures import PictureEncoder

    exact = settings.dtype == "float32" and settings.vision_dtype == "auto"
    dtype = "float32" if exact else settings.vision_dtype
    return PictureEncoder(directory, dtype, read_settings().image_cache_bytes, settings.threads)
