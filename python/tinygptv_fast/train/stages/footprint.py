"""How much memory a stage of training takes, known before anybody has that much: the memory model of
docs/distributed.md.

Weights, gradients and moments are counted. Activations are measured: the step is run at its real size on tensors
without storage, and the bytes that are alive are added up, operation by operation. What that cannot know is stated as
an allowance (``Allowance``): what a GPU's allocator and libraries take besides.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...config import ModelConfig
from ...errors import InvalidArgumentError
from ...reference.model import TinyGPTVReference
from .config import StageConfig
from .trainable import is_trained
from .world import KINDS, Parallel

FACTORED = 4096  # width between the original's two projections
_VISION = ("vision.", "ln_vision.", "qformer.")
_MOMENTS = 2


@dataclass(frozen=True)
class Work:
    """What one process has in its hands at once: ``rows`` examples of one part of a step, padded to ``tokens`` each
    (visual ones included), with ``learnt`` labels in all of them together."""

    rows: int
    tokens: int
    learnt: int

    def __post_init__(self) -> None:
        for name in ("rows", "tokens", "learnt"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise InvalidArgumentError(f"{name} is {getattr(self, name)!r}, expected an integer >= 1")
        if self.learnt > self.rows * (self.tokens - 1):
            raise InvalidArgumentError(f"learnt is {self.learnt}, expected at most rows·(tokens-1)")


@dataclass(frozen=True)
class Footprint:
    """Bytes in one process. frozen, trained: weights of the language model and the projector; vision: its frozen side;
    activations: most that is alive at once besides all the others; gathered: FSDP's whole layers, DDP's buckets."""

    frozen: int
    vision: int
    trained: int
    gradients: int
    moments: int
    activations: int
    gathered: int = 0

    @property
    def total(self) -> int:
        """Their sum: a little above the peak, since not all gradients are there when most activations are."""
        return sum(dataclasses.asdict(self).values())


@dataclass(frozen=True)
class Allowance:
    """What a GPU process takes besides: CUDA's context and libraries in bytes, and the allocator's loss as a share."""

    context: int = 800_000_000
    fragmentation: float = 0.1


def _build(config: ModelConfig, stage: StageConfig, projector_hidden: int | None) -> TinyGPTVReference:
    model = TinyGPTVReference(config, lora=stage.lora, projector_hidden=projector_hidden)
    frozen = torch.bfloat16 if stage.frozen_dtype == "bfloat16" else torch.float32
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_trained(name, stage))
        if not parameter.requires_grad and parameter.ndim == 2 and name.startswith("text."):
            parameter.data = parameter.data.to(frozen)
    model.text.recompute = stage.recompute
    return model.train()


@dataclass(frozen=True)
class Measured:
    """A stage in one process, and what FSDP puts together: bytes of its root's group, of the head, of a layer."""

    alone: Footprint
    root: int
    head: int
    layer: int

    def shared(self, kind: Parallel | None, processes: int) -> Footprint:
        """The memory of each of ``processes`` under ``kind``; None is one process alone.

        DDP holds everything, and the gradients a second time in its buckets. FSDP cuts everything but the frozen vision
        side; the root's group, the head, and two layers (the one that computes and the next) are whole at once.
        Raises InvalidArgumentError for arguments that contradict each other.
        """
        if (
            kind not in (None, *KINDS)
            or type(processes) is not int
            or processes < 1
            or (kind is None) != (processes == 1)
        ):
            raise InvalidArgumentError(
                f"processes is {processes!r} with kind {kind!r}, expected 1 with None, or more with 'ddp' or 'fsdp'"
            )
        alone = self.alone
        if kind is None:
            return alone
        if kind == "ddp":
            return dataclasses.replace(alone, gathered=alone.gradients)
        cut = {name: -(-getattr(alone, name) // processes) for name in ("frozen", "trained", "gradients", "moments")}
        return dataclasses.replace(alone, **cut, gathered=self.root + self.head + 2 * self.layer)


def footprint(
    config: ModelConfig, stage: StageConfig, work: Work, *, projector_hidden: int | None = FACTORED
) -> Measured:
    """The memory of training ``config`` as ``stage`` says. Raises InvalidArgumentError for a text-only model."""
    if config.vision is None or config.qformer is None:
        raise InvalidArgumentError("config has no vision side, expected a TinyGPT-V")
    with FakeTensorMode():
        model = _build(config, stage, projector_hidden)
        activations = max(_activations(model, stage, work), _seeing(model, config.vision.image_size))
    frozen, vision, trained = _weights(model)
    alone = Footprint(frozen, vision, trained, trained, _MOMENTS * trained, activations)
    text = model.text
    root = sum(map(_module_bytes, (text.embed, text.final_norm, model.projector)))
    return Measured(alone, root, _module_bytes(text.head), _module_bytes(text.layers[0]))


def _weights(model: TinyGPTVReference) -> tuple[int, int, int]:
    """Bytes of what is frozen of language model and projector, of the frozen vision side, and of what is trained."""
    frozen = vision = trained = 0
    for name, parameter in model.named_parameters():
        size = parameter.numel() * parameter.element_size()
        if parameter.requires_grad:
            trained += size  # float32, as its gradients and moments
        elif name.startswith(_VISION):
            vision += size
        else:
            frozen += size
    return frozen, vision, trained


def _module_bytes(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


# -- running a step on tensors without storage -------------------------------------------------------------------------
class _Alive(TorchDispatchMode):
    """Adds up the bytes of the storages that operations make, while somebody holds them."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._given = [p.untyped_storage() for p in module.parameters()]
        self._known = {id(storage) for storage in self._given}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _activations(model: TinyGPTVReference, stage: StageConfig, work: Work) -> int:
    """Peak of forward and backward of one part, its gradients dropped as they come."""
    trained = [p for p in model.parameters() if p.requires_grad]
    hooks = [p.register_post_accumulate_grad_hook(_drop) for p in trained]
    try:
        with _Alive(model) as alive:
            _step(model, stage, work)
    finally:
        for hook in hooks:
            hook.remove()
    return alive.peak


def _drop(parameter: Tensor) -> None:
    parameter.grad = None


def _step(model: TinyGPTVReference, stage: StageConfig, work: Work) -> None:
    """What ``Stepper.loss`` and ``backward`` do, for rows that are full from end to end; the few tokens that a CPU's
    bfloat16 rows are padded by left out."""
    assert model.config.qformer is not None
    queries = min(model.config.qformer.queries, work.tokens)
    with torch.autocast("cpu", torch.bfloat16, enabled=stage.precision != "float32"):  # "auto" as on a GPU
        seen = model.projector(torch.empty(work.rows, queries, model.config.qformer.width)).float()
        words = model.text.embed(torch.zeros(work.rows, work.tokens - queries, dtype=torch.int64))
        hidden = model.text(torch.cat([seen, words], dim=1), torch.ones(work.rows, work.tokens, dtype=torch.int64))
        learnt = hidden[:, :-1].reshape(-1, hidden.shape[-1])[: work.learnt]
        labels = torch.zeros(work.learnt, dtype=torch.int64)
        loss = nn.functional.cross_entropy(model.text.logits(learnt), labels, reduction="none").sum()
    loss.backward()


@torch.no_grad()
def _seeing(model: TinyGPTVReference, size: int) -> int:
    """Peak of the vision side, which sees one picture at a time."""
    with _Alive(model) as alive:
        model.qformer(model.ln_vision(model.vision(torch.empty(1, 3, size, size))))
    return alive.peak


# -- what fits a GPU ---------------------------------------------------------------------------------------------------
def on_gpu(found: Footprint, allowance: Allowance | None = None) -> int:
    """Bytes that a process of this footprint takes of a GPU."""
    extra = allowance or Allowance()
    return extra.context + round(found.total * (1 + extra.fragmentation))


def largest_rows(
    gpu_bytes: int, take: Callable[[int], Footprint], allowance: Allowance | None = None, most: int = 4096
) -> int:
    """Most examples at once with which a process fits ``gpu_bytes``; 0 if not even one does.

    take: rows → footprint. It is asked for one and two rows: activations grow by the same for every further one, since
    all rows of a part are padded to one length.
    """
    one, two = on_gpu(take(1), allowance), on_gpu(take(2), allowance)
    if one > gpu_bytes:
        return 0
    return most if two <= one else min(most, 1 + (gpu_bytes - one) // (two - one))
