"""Adapters in PEFT's layout (adapter_config.json, adapter_model.safetensors), and a model directory seen through one.

Tensor names are those PEFT gives when it wraps the original's language model: ``base_model.model.`` and the module's
path there, LoRA halves as ``.lora_A.weight``, whole modules (``modules_to_save``) under their own names. The projector
and the Q-Former stand outside that model: they are ``base_model.model.projector.*`` and ``base_model.model.qformer.*``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ..config import LoraConfig, ModelConfig
from ..errors import CheckpointError
from ..quantize.int4 import Int4Tensor, quantize_int4
from ..quantize.int8 import Int8Tensor, quantize_int8
from .atomic import atomic_directory, write_text
from .directory import ModelDirectory, open_directory
from .dtypes import torch_dtype
from .files import read_json_object
from .names import FLOAT_CODES, canonical_shapes
from .safetensors_file import SafetensorsFile
from .sources.phi import canonical

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_LORA = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
_ORIGINAL = {
    "attn.qkv": "self_attn.query_key_value",
    "attn.out": "self_attn.dense",
    "norm": "input_layernorm",
    "attn.q_norm": "self_attn.q_layernorm",
    "attn.k_norm": "self_attn.k_layernorm",
    "attn.post_norm": "post_layernorm",
}
_LAYER = re.compile(r"text\.layers\.(\d+)\.(.+)\.(weight|bias)")
_NORMS = ("input_layernorm", "q_layernorm", "k_layernorm", "post_layernorm", "final_layernorm")
_FACTORS = ("projector.proj1.weight", "projector.proj1.bias", "projector.proj2.weight", "projector.proj2.bias")


@dataclass(frozen=True)
class Adapter:
    """What training changed, under canonical names.

    lora: matrix's name → (A f32 [r, K], B f32 [N, r]), to be added as scale · B A. replaced: tensors that take the
    place of the model's own; the projector as one map, or as the two factors ``projector.proj1``, ``projector.proj2``.
    """

    config: LoraConfig | None
    lora: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    replaced: Mapping[str, Tensor] = field(default_factory=dict)
    digest: str = ""

    def folded(self) -> dict[str, Tensor]:
        """``replaced`` with the projector as one map: W2 W1 and W2 b1 + b2."""
        out = dict(self.replaced)
        if _FACTORS[0] in out:
            w1, b1, w2, b2 = (out.pop(name).float() for name in _FACTORS)
            out |= {"projector.weight": w2 @ w1, "projector.bias": w2 @ b1 + b2}
        return out

    def delta(self, name: str) -> Tensor | None:
        """What is added to matrix ``name``, f32 [N, K]; None where nothing is."""
        pair = self.lora.get(name)
        if pair is None or self.config is None:
            return None
        return self.config.scale * (pair[1].float() @ pair[0].float())


def original_name(name: str) -> str:
    """The name in an adapter file of canonical tensor ``name`` (without the prefix)."""
    layer = _LAYER.fullmatch(name)
    if layer:
        return f"model.layers.{layer[1]}.{_ORIGINAL[layer[2]]}.{layer[3]}"
    if name.startswith("text.final_norm."):
        return f"model.final_layernorm.{name.rpartition('.')[2]}"
    return name


def write_adapter(out: str | os.PathLike[str], adapter: Adapter, *, base: str, overwrite: bool = False) -> None:
    """Write ``adapter`` as the directory ``out``, in one piece or not at all. base: what it was trained on."""
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in adapter.lora.items():
        stem = _PREFIX + original_name(name).removesuffix(".weight")
        tensors |= {f"{stem}.lora_A.weight": a.detach().float(), f"{stem}.lora_B.weight": b.detach().float()}
    tensors |= {_PREFIX + original_name(name): value.detach().float() for name, value in adapter.replaced.items()}
    kept = {name: value.cpu().contiguous() for name, value in sorted(tensors.items())}
    needed = sum(value.nbytes for value in kept.values())
    with atomic_directory(
        out, overwrite=overwrite, needed_bytes=needed, is_ours=is_adapter, kind="an adapter"
    ) as folder:
        save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})
        (folder / WEIGHTS).chmod(0o644)  # safetensors writes for the owner alone
        write_text(folder / CONFIG, json.dumps(_peft_config(adapter, base), indent=1) + "\n")


def is_adapter(path: Path) -> bool:
    """Whether ``path`` looks like an adapter's directory."""
    return (path / CONFIG).is_file()


def _peft_config(adapter: Adapter, base: str) -> dict[str, Any]:
    config = adapter.config
    whole = [name for name in _NORMS if any(name in original_name(key) for key in adapter.replaced)]
    whole += [name for name in ("projector", "qformer") if any(key.startswith(name) for key in adapter.replaced)]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        # Without LoRA (stage 1) the file still has PEFT's form, with modules_to_save alone.
        "r": config.rank if config else 1,
        "lora_alpha": config.alpha if config else 1,
        "lora_dropout": config.dropout if config else 0.0,
        "target_modules": ["query_key_value", "dense"] if config else [],
        "modules_to_save": whole or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
    }


def read_adapter(path: str | os.PathLike[str], config: ModelConfig) -> Adapter:
    """The adapter in directory ``path``, checked against ``config``: every key known, every shape right.

    Raises CheckpointError naming the file and what is wrong with it; settings of PEFT that change the arithmetic and
    are not implemented (DoRA, patterns, biases) are errors.
    """
    folder = Path(path)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(f"adapter {folder} has no {name}; expected a directory in PEFT's layout")
    settings = read_json_object(folder / CONFIG)
    lora = _lora_settings(folder / CONFIG, settings)
    file = SafetensorsFile(folder / WEIGHTS)
    halves: dict[str, dict[str, Tensor]] = {}
    replaced: dict[str, Tensor] = {}
    for key in file.names():
        name, half = _place(folder / WEIGHTS, key)
        tensor = file.tensor(key).to(torch.float32, copy=True)
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{folder / WEIGHTS}: {key} holds NaN or infinity")
        if half:
            halves.setdefault(name, {})[half] = tensor
        else:
            replaced[name] = tensor
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes() + (folder / CONFIG).read_bytes()).hexdigest()
    adapter = Adapter(lora if halves else None, _pairs(folder / WEIGHTS, halves), replaced, digest)
    _check_shapes(folder / WEIGHTS, adapter, config)
    return adapter


def _lora_settings(path: Path, settings: dict[str, Any]) -> LoraConfig:
    if settings.get("peft_type") != "LORA":
        raise CheckpointError(f"{path}: peft_type is {settings.get('peft_type')!r}, expected 'LORA'")
    for key in ("use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "layer_replication"):
        if settings.get(key):
            raise CheckpointError(f"{path}: {key} is {settings[key]!r}, which is not supported; expected it unset")
    if settings.get("bias", "none") != "none":
        raise CheckpointError(f"{path}: bias is {settings['bias']!r}, expected 'none'")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if type(rank) is not int or rank < 1 or isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        raise CheckpointError(f"{path}: r is {rank!r} and lora_alpha {alpha!r}, expected an integer >= 1 and a number")
    scaled = alpha * math.sqrt(rank) if settings.get("use_rslora") else alpha  # rsLoRA: alpha / sqrt(r)
    return LoraConfig(rank, float(scaled), float(settings.get("lora_dropout") or 0.0))


def _place(path: Path, key: str) -> tuple[str, str]:
    """(canonical name, "A", "B" or "" for a whole tensor) of a file's key."""
    name = key.removeprefix("llama_model.").removeprefix(_PREFIX).replace(".modules_to_save.default", "")
    lora = _LORA.fullmatch(name)
    if lora:
        target = canonical(f"{lora[1]}.weight")
        if target is not None and target.endswith(("attn.qkv.weight", "attn.out.weight")):
            return target, lora[2]
    elif name.startswith(("projector.", "qformer.")):
        return name, ""
    else:
        target = canonical(name)
        if target is not None and "norm." in target:
            return target, ""
    raise CheckpointError(
        f"{path}: {key} is for no tensor an adapter may change, expected LoRA on query_key_value and dense, norms, "
        "projector or qformer"
    )


def _pairs(path: Path, halves: dict[str, dict[str, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    alone = [name for name, found in halves.items() if set(found) != {"A", "B"}]
    if alone:
        raise CheckpointError(f"{path}: {alone[0]} has one LoRA half, expected A and B")
    return {name: (found["A"], found["B"]) for name, found in halves.items()}


def _check_shapes(path: Path, adapter: Adapter, config: ModelConfig) -> None:
    shapes = canonical_shapes(config)
    rank = adapter.config.rank if adapter.config is not None else 0
    found: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for name, (a, b) in adapter.lora.items():
        rows, columns = shapes.get(name, (0, 0))
        found[f"{name}, LoRA A"] = (tuple(a.shape), (rank, columns))
        found[f"{name}, LoRA B"] = (tuple(b.shape), (rows, rank))
    present = [name for name in _FACTORS if name in adapter.replaced]
    if present and len(present) != len(_FACTORS):
        raise CheckpointError(f"{path}: the projector's factors are incomplete, found {present}")
    try:
        folded = adapter.folded()
    except RuntimeError as error:
        raise CheckpointError(f"{path}: the projector's factors do not fit each other: {error}") from error
    for name, tensor in folded.items():
        if name not in shapes:
            raise CheckpointError(f"{path}: {name} is not a tensor of this model")
        found[name] = (tuple(tensor.shape), shapes[name])
    for name, (have, wanted) in found.items():
        if have != wanted:
            raise CheckpointError(
                f"{path}: {name} is {list(have)}, expected {list(wanted)}: an adapter of another model"
            )


class AdaptedDirectory(ModelDirectory):
    """A model directory with an adapter on top. Changed matrices are computed, and quantised, when they are asked for.

    ``dequantized`` is W + scale·BA in float32, nothing rounded; ``quantized`` is that in the directory's storage form,
    with the converter's own rounding, so that a merged directory holds the same bytes.
    """

    def __init__(self, base: ModelDirectory, adapter: Adapter) -> None:
        super().__init__(base.path, base.config, base._weights)
        self._adapter, self._replaced, self._base = adapter, adapter.folded(), base
        self.adapter = adapter

    def changed(self, name: str) -> Tensor | None:
        """f32 tensor ``name`` with the adapter in it; None where the directory's own stands."""
        if name in self._replaced:
            return self._replaced[name]
        delta = self._adapter.delta(name)
        return None if delta is None else self._base.dequantized(name).float() + delta

    def tensor(self, name: str) -> Tensor:
        value = self.changed(name) if self.kind(name) in FLOAT_CODES else None
        return super().tensor(name) if value is None else value.to(torch_dtype(FLOAT_CODES[self.kind(name)]))

    def quantized(self, name: str) -> Int4Tensor | Int8Tensor:
        value = self.changed(name) if self.kind(name) not in FLOAT_CODES else None
        if value is None:
            return super().quantized(name)
        if self.kind(name) == "int8":
            return quantize_int8(value, name=name)
        quantization = self.config.quantization
        return quantize_int4(value, quantization.group_size, quantization.symmetric, name=name)

    def dequantized(self, name: str) -> Tensor:
        value = self.changed(name)
        return self._base.dequantized(name) if value is None else value

    def computed(self, name: str) -> bool:
        return name in self._replaced or name in self._adapter.lora

    def arrays(self, name: str) -> list[np.ndarray[Any, Any]]:
        if not self.computed(name):
            return super().arrays(name)
        if self.kind(name) in FLOAT_CODES:
            value = self.tensor(name)
            stored = [value.view(torch.uint16) if value.dtype == torch.bfloat16 else value]
        else:
            packed = self.quantized(name)
            zeros = packed.zeros if isinstance(packed, Int4Tensor) else None
            stored = [packed.qweight, packed.scales] + ([] if zeros is None else [zeros])
        return [part.contiguous().numpy() for part in stored]

    @property
    def content_hash(self) -> str:
        return hashlib.sha256(f"{self._base.content_hash} {self._adapter.digest}".encode()).hexdigest()


def open_adapted(path: str | os.PathLike[str], adapter: str | os.PathLike[str] | None) -> ModelDirectory:
    """``open_directory``, seen through ``adapter`` if one is given."""
    directory = open_directory(path)
    return directory if adapter is None else AdaptedDirectory(directory, read_adapter(adapter, directory.config))
