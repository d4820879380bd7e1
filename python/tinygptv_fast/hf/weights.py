"""The tensors of a Phi in transformers, packed for the native core one by one. Knows no request."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..checkpoint.names import text_shapes
from ..checkpoint.sources.phi import canonical
from ..config import TextConfig
from ..engine.forms import Forms, Matrix
from ..errors import CapacityError, CheckpointError, UnsupportedError
from ..memory import read_memory
from ..quantize.bfloat16 import to_bfloat16
from ..quantize.int4 import quantize_int4
from ..quantize.int8 import quantize_int8
from .devices import CPU, CUDA

if TYPE_CHECKING:
    from .. import _native

GROUP_SIZE = 32
_BITS = {"int4": 4.5, "int8": 8.0, "bf16": 16.0, "f32": 32.0}
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)

State = Mapping[str, torch.Tensor]


def read_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Canonical name → tensor (no copy), q, k and v apart as ``...attn.q``, ``...attn.k``, ``...attn.v``. Raises
    UnsupportedError for a tensor that a Phi has not, for one that is neither on the CPU nor on a GPU and for other
    dtypes."""
    state: dict[str, torch.Tensor] = {}
    for key, tensor in model.state_dict(keep_vars=True).items():
        name = canonical(key)
        if name is None:
            hint = ": merge the adapter first (merge_and_unload)" if "lora" in key or "base_layer" in key else ""
            raise UnsupportedError(f"the model has {key!r}, which no Phi has{hint}")
        if tensor.device.type not in (CPU, CUDA):
            raise UnsupportedError(f"{key} is on {tensor.device}, expected the CPU or a GPU: load the weights first")
        if tensor.dtype not in _FLOATS:
            raise UnsupportedError(f"{key} is {tensor.dtype}, expected float32, bfloat16 or float16 weights")
        state[name] = tensor
    return state


def choose_forms(state: State, quantization: str, dtype: str | None, device: str) -> Forms:
    """How weights are held on ``device``. Unquantised: ``dtype``, or the model's own where the CPU holds float16 as
    float32 (no rounding)."""
    if quantization != "none":
        matrix = Matrix(quantization, GROUP_SIZE, True)
        return Forms(matrix, matrix, "int8")
    if dtype is None:
        dtype = str(state["text.embed.weight"].dtype).removeprefix("torch.")
    kind = {"float32": "f32", "bfloat16": "bf16", "float16": "f16" if device == CUDA else "f32"}[dtype]
    return Forms(Matrix(kind, GROUP_SIZE, True), Matrix(kind, GROUP_SIZE, True), kind)


def pack(
    state: dict[str, torch.Tensor],
    text: TextConfig,
    kv_heads: int,
    forms: Forms,
    make: Callable[[], Any],
    *,
    free: bool,
) -> Any:
    """All tensors, in what ``make`` gives: empty ``_native.Weights`` or ``CudaWeights`` of these forms. free: every
    tensor of ``state`` is emptied as soon as it has been packed.

    A linear map or a norm without a bias gets one of zeros. Raises CheckpointError for a tensor that is missing, has
    another shape or holds NaN or infinity, and what ``make`` raises, before anything is emptied.
    """
    shapes = text_shapes(text)
    _check_names(state, shapes)
    weights = make()
    for name, shape in shapes.items():
        parts = list(_parts(state, name))
        _put(weights, name, _tensor(parts, name, shape, text, kv_heads), forms)
        if free and name not in ("text.embed.weight", "text.head.weight"):  # they may be one and the same
            _empty(parts)
    if free:
        _empty(list(state.values()))
    return weights


def make_weights(text: TextConfig, forms: Forms) -> _native.Weights:
    """Room for the packed weights on the CPU. Raises CapacityError without the memory."""
    from .. import _native

    _check_memory(text_shapes(text), forms)
    try:
        return _native.Weights(dataclasses.asdict(text), forms.native(), new_key())
    except MemoryError as error:
        raise CapacityError("no memory for the packed weights") from error


def new_key() -> str:
    """A name for weights that no others have: prefixes of theirs are never shared."""
    return f"accelerated-{uuid.uuid4().hex}"


def _check_names(state: State, shapes: Mapping[str, Any]) -> None:
    used = {part for name in shapes for part in _sources(name)}
    extra = sorted(set(state) - used)
    if extra:
        raise UnsupportedError(f"the model has {extra[0]!r}, which does not fit the rest of it")


def _sources(name: str) -> list[str]:
    """Names of ``read_state`` that ``name`` may be made from."""
    if ".attn.qkv." in name:
        return [name, *(name.replace(".qkv.", f".{part}.") for part in "qkv")]
    return [name]


def _parts(state: State, name: str) -> Iterator[torch.Tensor]:
    yield from (state[part] for part in _sources(name) if part in state)


def _tensor(
    parts: list[torch.Tensor], name: str, shape: tuple[int, ...], text: TextConfig, kv_heads: int
) -> torch.Tensor:
    if not parts:
        if name.endswith(".bias"):
            return torch.zeros(shape)
        raise CheckpointError(f"the model has no {name}")
    if len(parts) == 1:
        whole = parts[0].detach().cpu()
    elif len(parts) == 3:
        whole = _interleaved([part.detach().cpu() for part in parts], name, text, kv_heads)
    else:
        raise CheckpointError(f"the model has {len(parts)} of the parts q, k and v of {name}, expected all three")
    if tuple(whole.shape) != shape:
        raise CheckpointError(f"{name} is {list(whole.shape)}, expected {list(shape)}")
    if not bool(torch.isfinite(whole).all()):
        raise CheckpointError(f"{name} holds NaN or infinity")
    return whole


def _interleaved(parts: list[torch.Tensor], name: str, text: TextConfig, kv_heads: int) -> torch.Tensor:
    """q [H*D, ...], k and v [kv_heads*D, ...] as rows [H, 3, D]. A head of k and v that serves several of q is
    repeated, which computes the same."""
    heads = []
    for part, count in zip(parts, (text.heads, kv_heads, kv_heads), strict=True):
        if part.shape[0] != count * text.head_dim:
            raise CheckpointError(f"{name} is made of {list(part.shape)}, expected {count * text.head_dim} rows")
        split = part.unflatten(0, (count, text.head_dim))
        heads.append(split.repeat_interleave(text.heads // count, dim=0) if count < text.heads else split)
    return torch.stack(heads, dim=1).flatten(0, 2)


def _put(weights: _native.Weights, name: str, tensor: torch.Tensor, forms: Forms) -> None:
    if tensor.dim() == 1:
        weights.put_vector(name, _array(tensor.float()))
        return
    stem = name.removesuffix(".weight")
    kind = {"text.embed": forms.embedding, "text.head": forms.head.kind}.get(stem, forms.body.kind)
    if kind in ("f32", "f16"):  # the native core rounds to float16 where the form says so
        weights.put_f32(stem, _array(tensor.float()))
    elif kind == "bf16":
        weights.put_bf16(stem, _array(to_bfloat16(tensor, name=name).view(torch.uint16)))
    elif kind == "int8":
        whole = quantize_int8(tensor.float(), name=name)
        weights.put_int8(stem, _array(whole.qweight), _array(whole.scales))
    else:
        packed = quantize_int4(tensor.float().contiguous(), forms.body.group_size, name=name)
        weights.put_int4(stem, _array(packed.qweight), _array(packed.scales), None)


def _array(tensor: torch.Tensor) -> Any:
    return tensor.contiguous().numpy()


def _empty(tensors: list[torch.Tensor]) -> None:
    for tensor in tensors:
        tensor.data = torch.empty(0, dtype=tensor.dtype)


def _check_memory(shapes: Mapping[str, tuple[int, ...]], forms: Forms) -> None:
    """The kernel would rather kill a process than refuse it memory: say it before."""
    matrices = sum(shape[0] * shape[1] for shape in shapes.values() if len(shape) == 2)
    needed, usable = int(matrices * _BITS[forms.body.kind] / 8), read_memory().usable_bytes
    if needed > usable:
        raise CapacityError(
            f"the packed weights need {needed / 1e9:.2f} GB, {usable / 1e9:.2f} GB of memory are free: "
            "free some, or give quantization='int4'"
        )
