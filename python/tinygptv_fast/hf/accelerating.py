"""``accelerate``: from a Phi of transformers to an object with the same ``generate``, on the native core."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..env import read_settings
from ..errors import InvalidArgumentError, UnsupportedError
from ..memory import read_memory

if TYPE_CHECKING:
    import torch

    from ..config import TextConfig
    from ..engine.forms import Forms
    from .model import AcceleratedPhi
    from .weights import State


def accelerate(
    hf_or_original_model: Any,
    quantization: str = "none",
    dtype: str | torch.dtype | None = None,
    optimize_memory: bool = False,
    device: str | torch.device | None = None,
    threads: int | None = None,
    max_sequences: int = 8,
    kv_tokens: int | None = None,
) -> AcceleratedPhi:
    """An object with the ``generate(...)`` of ``hf_or_original_model``, computed natively. See docs/transformers.md.

    hf_or_original_model: a ``PhiForCausalLM`` of transformers 4 or 5 on the CPU or a GPU, or one with TinyGPT-V's norms
    (``qk_layernorm``, and ``post_layernorm`` in its layers).
    quantization: "none" computes what the model does; "int8" and "int4" (groups of 32) round its matrices.
    dtype: of unquantised matrices, "float32" or "bfloat16"; None takes the model's, where the CPU holds float16 as
    float32. With float32 the ids are those of the torch model; its logits differ by float32 rounding.
    optimize_memory: empty the torch model's weights as they are packed. The torch model cannot be used afterwards.
    device: "cpu" or "cuda" (the first GPU) computes; None takes where the model's weights are.
    threads: None takes TINYGPTV_THREADS, else the physical cores. max_sequences: that the engine runs side by side;
    others wait. kv_tokens: positions in each of the two caches, of the engine and of the loop; None takes full contexts
    for max_sequences, at most half of the free memory for both, of a GPU's nine tenths. On the CPU it is reserved, and
    not touched before it is used.

    Raises InvalidArgumentError for a wrong argument, UnsupportedError naming the field of the model's config, the
    tensor or the device that cannot be run, CheckpointError for unusable weights, CapacityError without the memory.
    """
    try:
        from . import arguments
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise UnsupportedError("accelerate() needs transformers: pip install 'tinygptv_fast[hf]'") from error
    from ..engine.native_backend import NativeBackend
    from .architecture import dropouts, read_shape
    from .devices import device_name
    from .model import AcceleratedPhi, check_model
    from .sequences import open_sequences
    from .weights import choose_forms, pack, read_state

    name = arguments.check_settings(quantization, dtype, optimize_memory, threads, max_sequences, kv_tokens)
    asked = device_name(device)
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
    where = _where(asked, state)
    forms = choose_forms(state, quantization, name, where)
    model_dtype = state["text.embed.weight"].dtype
    plan = (_on_gpu if where == "cuda" else _on_cpu)(shape.text, forms, max_sequences, kv_tokens)
    weights = pack(state, shape.text, shape.kv_heads, forms, plan.make, free=optimize_memory)
    settings = read_settings()
    count = threads or settings.threads or 0
    facts = {**plan.facts, "quantization": quantization, "dtype": forms.dtype}
    with plan.explaining:
        backend = NativeBackend(
            weights,
            shape.text,
            kv_kind=plan.kv_kind,
            kv_tokens=plan.kv_tokens,
            max_sequences=max_sequences,
            threads=count,
            isa=settings.cpu_isa,
            token_bytes=[],
            pictures=None,
            facts={**facts, "packing_s": time.perf_counter() - started},
        )
    try:
        tokens = plan.loop_tokens()
        pool = open_sequences(weights, kv_kind=plan.kv_kind, kv_tokens=tokens, threads=count, isa=settings.cpu_isa)
    except BaseException:
        backend.close()
        raise
    keep = quantization == "none" and not optimize_memory
    return AcceleratedPhi(model, shape.text, backend, pool, dtype=model_dtype, keep_source=keep, computes_on=where)


def _where(asked: str | None, state: State) -> str:
    """What computes, "cpu" or "cuda". Raises UnsupportedError where there is no GPU that can be used."""
    from .devices import CUDA

    found = state["text.embed.weight"].device
    if (asked or found.type) != CUDA:
        return asked or found.type
    from ..engine.cuda import check_cuda

    try:
        check_cuda()
    except UnsupportedError as error:
        if asked:
            raise
        raise UnsupportedError(f"the model is on {found}: {error}; device='cpu' computes on the CPU") from error
    return CUDA


@dataclass(frozen=True)
class _Plan:
    """What of the memory goes where. make: the empty weights. kv_tokens: of the engine's cache; loop_tokens: of the
    other, once the engine has taken its. explaining: entered around what takes the memory."""

    make: Callable[[], Any]
    kv_kind: str
    kv_tokens: int
    loop_tokens: Callable[[], int]
    facts: dict[str, Any]
    explaining: AbstractContextManager[None]


def _on_cpu(text: TextConfig, forms: Forms, max_sequences: int, kv_tokens: int | None) -> _Plan:
    from ..engine.forms import KV_KINDS
    from ..engine.native_backend import choose_kv_tokens
    from .weights import make_weights

    kind = KV_KINDS[forms.kv_dtype("auto")]
    free = read_memory().usable_bytes // 2  # for each of the two caches
    tokens = kv_tokens or choose_kv_tokens(text, kind, max_sequences, free)
    return _Plan(
        make=lambda: make_weights(text, forms),
        kv_kind=kind,
        kv_tokens=tokens,
        loop_tokens=lambda: tokens,
        facts={"device": "cpu"},
        explaining=nullcontext(),
    )


def _on_gpu(text: TextConfig, forms: Forms, max_sequences: int, kv_tokens: int | None) -> _Plan:
    from ..engine.cuda import describe_cuda, make_cuda_weights, plan_memory
    from ..engine.forms import KV_KINDS
    from .sequences import STEPS
    from .weights import new_key

    kind = KV_KINDS[forms.kv_dtype("auto")]
    sizes: dict[str, Any] = {"kv_kind": kind, "kv_tokens": kv_tokens, "max_sequences": max_sequences}
    plan = plan_memory(text, forms, **sizes, share=_GPU_SHARE)
    return _Plan(
        make=lambda: make_cuda_weights(text, forms, new_key(), plan),
        kv_kind=kind,
        kv_tokens=plan.kv_tokens,
        loop_tokens=lambda: plan_memory(text, forms, **sizes, steps=STEPS).kv_tokens,
        facts={**describe_cuda(), "arena_bytes": plan.arena_bytes},
        explaining=plan.explaining(),
    )


_GPU_SHARE = 0.45  # of what the weights leave, for the engine's cache; as much for the other, the rest for others


def _rms_norm_eps(model: Any) -> float:
    """Of TinyGPT-V's norm after attention; 1e-6 where no module says otherwise."""
    for name, module in model.named_modules():
        if name.endswith("post_layernorm"):
            for field in ("variance_epsilon", "eps"):
                value = getattr(module, field, None)
                if isinstance(value, float):
                    return value
    return 1e-6
