"""From a model directory (and the adapter of the stage before) to a model in its training form, and back to an adapter.

LoRA stays apart from the matrices it adapts; the projector stays in two factors if it came in two. Quantised matrices
are dequantised: training goes on from the values that the directory stands for.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...checkpoint.adapter import AdaptedDirectory, Adapter, read_adapter, write_adapter
from ...checkpoint.directory import ModelDirectory, open_directory
from ...config import LoraConfig
from ...errors import InvalidArgumentError, UnsupportedError
from ...generate.loading import locate
from ...processing.image import ImageProcessor
from ...processing.templates import Template
from ...processing.tokenizer import Tokenizer
from ...reference.model import TinyGPTVReference
from .config import StageConfig
from .sharding import whole
from .trainable import is_trained

_FROZEN_VISION = ("vision.", "ln_vision.", "qformer.")


@dataclass(frozen=True)
class Start:
    """A model ready for training, and what goes with it.

    identity: digest of the weights it starts from; vision_identity: of those of the frozen vision side. adapter: what
    it was opened with. Built by ``open_start``, or directly from a model of one's own (``TinyGPTVReference`` with
    ``lora=config.lora``).
    """

    model: TinyGPTVReference
    tokenizer: Tokenizer
    template: Template
    processor: ImageProcessor | None
    identity: str
    vision_identity: str = ""
    adapter: Adapter | None = None
    base: str = ""


def open_start(
    path: str | os.PathLike[str],
    config: StageConfig,
    *,
    adapter: str | os.PathLike[str] | None = None,
    device: str = "cpu",
) -> Start:
    """The model of 'demo' or directory ``path`` in the training form of ``config``.

    adapter: of an earlier stage, whose LoRA is trained on; its rank and alpha must be the config's. Raises
    CheckpointError for the files, InvalidArgumentError where config and files contradict each other.
    """
    if device != "cpu" and not torch.cuda.is_available():
        raise UnsupportedError(f"device is {device!r}, but torch sees no GPU here; expected 'cpu'")
    directory = open_directory(locate(path, revision=None, token=None, cache_dir=None, local_files_only=True))
    if directory.config.vision is None:
        raise InvalidArgumentError(f"--model {path} is text-only, expected a model with a vision side")
    text = directory.config.text
    if config.norms and not (text.qk_norm and text.post_attention_norm):
        raise InvalidArgumentError(f"--model {path} has no q/k norm or post-attention norm, expected a TinyGPT-V")
    given = None if adapter is None else read_adapter(adapter, directory.config)
    _check_lora(given, config.lora, adapter)
    hidden = _hidden(given, config)
    with torch.device("meta"):
        model = TinyGPTVReference(directory.config, lora=config.lora, projector_hidden=hidden)
    state = {name: directory.dequantized(name).float() for name in directory.names()}
    state |= _projector(model, config, given, state, hidden)
    if given is not None:
        state |= {name: value for name, value in given.replaced.items() if not name.startswith("projector.")}
    state |= _lora_state(model, config, given)
    frozen = torch.bfloat16 if config.frozen_dtype == "bfloat16" else torch.float32
    placed = {name: _own(name, tensor, config, frozen).to(device) for name, tensor in state.items()}
    model.load_state_dict(placed, strict=True, assign=True)
    processor = ImageProcessor.from_dict(directory.preprocessor) if directory.preprocessor else None
    whole = directory if given is None else AdaptedDirectory(directory, given)
    return Start(
        model,
        Tokenizer.from_file(directory.tokenizer_file),
        directory.template,
        processor,
        whole.content_hash,
        _vision_identity(directory, given),
        given,
        str(path),
    )


def _check_lora(given: Adapter | None, wanted: LoraConfig | None, path: Any) -> None:
    if given is None or given.config is None:
        return
    have = given.config
    if wanted is None or (have.rank, have.alpha) != (wanted.rank, wanted.alpha):
        asked = "no LoRA" if wanted is None else f"rank {wanted.rank}, alpha {wanted.alpha:g}"
        raise InvalidArgumentError(
            f"--adapter {path} has LoRA of rank {have.rank}, alpha {have.alpha:g}, the config {asked}; "
            "expected the same, or a model into which the adapter was merged"
        )


def _hidden(given: Adapter | None, config: StageConfig) -> int | None:
    if given is not None and "projector.proj1.weight" in given.replaced:
        return int(given.replaced["projector.proj1.weight"].shape[0])
    return config.projector_hidden if config.fresh_projector else None


def _projector(
    model: TinyGPTVReference, config: StageConfig, given: Adapter | None, state: dict[str, Tensor], hidden: int | None
) -> dict[str, Tensor]:
    """The projector's tensors; takes the folded map out of ``state`` where two factors stand for it."""
    kept = {} if given is None else {n: t for n, t in given.replaced.items() if n.startswith("projector.")}
    if kept and not config.fresh_projector:
        fresh = kept
    elif config.fresh_projector:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            shapes = {n: p.shape for n, p in model.named_parameters() if n.startswith("projector.")}
            fresh = {n: torch.empty(shape) for n, shape in shapes.items()}
            for name, tensor in fresh.items():  # nn.Linear's own start: uniform within 1/sqrt(inputs)
                fan_in = shapes[name.replace("bias", "weight")][1]
                nn.init.uniform_(tensor, -(fan_in**-0.5), fan_in**-0.5)
    else:
        return {}
    if hidden is not None:
        del state["projector.weight"], state["projector.bias"]
    return fresh


def _lora_state(model: TinyGPTVReference, config: StageConfig, given: Adapter | None) -> dict[str, Tensor]:
    """A as at a start of training and B zero, or both from the adapter."""
    out: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(config.seed)
    for name, parameter in model.named_parameters():
        if not name.endswith(("lora_a", "lora_b")):
            continue
        target = f"{name.rpartition('.')[0]}.weight"
        pair = None if given is None else given.lora.get(target)
        if pair is not None:
            out[name] = pair[0] if name.endswith("lora_a") else pair[1]
        elif name.endswith("lora_a"):
            bound = parameter.shape[1] ** -0.5  # kaiming_uniform with a = sqrt(5), PEFT's and the original's
            out[name] = (torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound
        else:
            out[name] = torch.zeros(parameter.shape)
    return out


def _own(name: str, tensor: Tensor, config: StageConfig, frozen: torch.dtype) -> Tensor:
    """Trained tensors as copies of their own; frozen ones may be views of the mapped file."""
    if is_trained(name, config):
        return tensor.float().clone()
    return tensor.to(frozen) if tensor.ndim == 2 and name.startswith("text.") else tensor


def _vision_identity(directory: ModelDirectory, given: Adapter | None) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(directory.hashes["tensors"].items()):
        if name.startswith(_FROZEN_VISION):
            digest.update(f"{name} {value}\n".encode())
    if given is not None and any(name.startswith("qformer.") for name in given.replaced):
        digest.update(given.digest.encode())
    return digest.hexdigest()


def trained_adapter(start: Start, config: StageConfig) -> Adapter:
    """What training changed, the start's own adapter included. Of several processes every one must ask."""
    state = {name: whole(t) for name, t in start.model.state_dict().items() if _in_adapter(name, start, config)}
    replaced = {name: tensor for name, tensor in state.items() if not name.endswith(("lora_a", "lora_b"))}
    pairs = {}
    for name in state:
        if name.endswith(".lora_a"):
            stem = name.removesuffix(".lora_a")
            pairs[f"{stem}.weight"] = (state[name], state[f"{stem}.lora_b"])
    return Adapter(config.lora if pairs else None, pairs, replaced)


def _in_adapter(name: str, start: Start, config: StageConfig) -> bool:
    # A norm goes as a whole module, as PEFT keeps it: its frozen bias with its trained weight.
    weight = f"{name.removesuffix('.bias')}.weight" if name.endswith(".bias") else name
    before = start.adapter.replaced if start.adapter is not None else {}
    return name in before or is_trained(weight, config) or name.endswith(("lora_a", "lora_b"))


def write_trained(start: Start, config: StageConfig, out: Path, *, overwrite: bool = False) -> None:
    """Write what training changed as an adapter in PEFT's layout, in one piece or not at all."""
    write_adapter(out, trained_adapter(start, config), base=start.base, overwrite=overwrite)
