"""``accelerate``: from a Phi of transformers to an object with the same ``generate``, on the native core."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ..env import read_settings
from ..errors import InvalidArgumentError, UnsupportedError
from ..memory import read_memory

if TYPE_CHECKING:
    import torch

    from .model import AcceleratedPhi


def accelerate(
    hf_or_original_model: Any,
    quantization: str = "none",
    dtype: str | torch.dtype | None = None,
    optimize_memory: bool = False,
    threads: int | None = None,
    max_sequences: int = 8,
    kv_tokens: int | None = None,
) -> AcceleratedPhi:
    """An object with the ``generate(...)`` of ``hf_or_original_model``, computed natively. See docs/transformers.md.

    hf_or_original_model: a ``PhiForCausalLM`` of transformers 4 or 5 on the CPU, or one with TinyGPT-V's norms
    (``qk_layernorm``, and ``post_layernorm`` in its layers).
    quantization: "none" computes what the model does; "int8" and "int4" (groups of 32) round its matrices.
    dtype: of unquantised matrices, "float32" or "bfloat16"; None takes the model's, where float16 becomes float32. With
    float32 the ids are those of the torch model; its logits differ by float32 rounding.
    optimize_memory: empty the torch model's weights as they are packed. The torch model cannot be used afterwards.
    threads: None takes TINYGPTV_THREADS, else the physical cores. max_sequences: that the engine runs side by side;
    others wait. kv_tokens: positions in each of the two caches, of the engine and of the loop; None takes full contexts
    for max_sequences, at most half of the free memory for both. It is reserved, and not touched before it is used.

    Raises InvalidArgumentError for a wrong argument, UnsupportedError naming the field of the model's config, or the
    tensor, that cannot be run, CheckpointError for unusable weights, CapacityError without the memory.
    """
    try:
        from . import arguments
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise UnsupportedError("accelerate() needs transformers: pip install 'tinygptv_fast[hf]'") from error
    from ..engine.forms import KV_KINDS
    from ..engine.native_backend import NativeBackend, choose_kv_tokens
    from .architecture import dropouts, read_shape
    from .model import AcceleratedPhi, check_model
    from .sequences import open_sequences
    from .weights import choose_forms, pack, read_state

    name = arguments.check_settings(quantization, dtype, optimize_memory, threads, max_sequences, kv_tokens)
    model = hf_or_original_model
    check_model(model)
    if model.training and dropouts(model.config):
        raise InvalidArgumentError(
            f"model is in training with {dropouts(model.config)[0]}, expected model.eval() first"
        )
    started = time.perf_counter()
    shape = read_shape(model.config, [], rms_norm_eps=_rms_norm_eps(model))  # the family and its fields come first
    state = read_state(model)
    shape = read_shape(model.config, state, rms_norm_eps=shape.text.rms_norm_eps)
    forms = choose_forms(state, quantization, name)
    model_dtype = state["text.embed.weight"].dtype
    weights = pack(state, shape.text, shape.kv_heads, forms, free=optimize_memory)
    kv_kind = KV_KINDS[forms.kv_dtype("auto")]
    free = read_memory().usable_bytes // 2  # for each of the two caches
    tokens = kv_tokens or choose_kv_tokens(shape.text, kv_kind, max_sequences, free)
    settings = read_settings()
    count = threads or settings.threads or 0
    facts = {"quantization": quantization, "dtype": forms.dtype, "packing_s": time.perf_counter() - started}
    backend = NativeBackend(
        weights,
        shape.text,
        kv_kind=kv_kind,
        kv_tokens=tokens,
        max_sequences=max_sequences,
        threads=count,
        isa=settings.cpu_isa,
        token_bytes=[],
        pictures=None,
        facts=facts,
    )
    pool = open_sequences(weights, kv_kind=kv_kind, kv_tokens=tokens, threads=count, isa=settings.cpu_isa)
    keep = quantization == "none" and not optimize_memory
    return AcceleratedPhi(model, shape.text, backend, pool, dtype=model_dtype, keep_source=keep)


def _rms_norm_eps(model: Any) -> float:
    """Of TinyGPT-V's norm after attention; 1e-6 where no module says otherwise."""
    for name, module in model.named_modules():
        if name.endswith("post_layernorm"):
            for field in ("variance_epsilon", "eps"):
                value = getattr(module, field, None)
                if isinstance(value, float):
                    return value
    return 1e-6
