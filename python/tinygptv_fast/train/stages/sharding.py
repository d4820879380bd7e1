"""A model in the hands of several processes: what DDP and FSDP wrap, and whole tensors from their parts and back.

DDP: every process holds the model; gradients are averaged. FSDP (``fully_shard``, FSDP2): each layer of the language
model, its head, and the rest that is trained (with the token embedding) are cut along their first dimension, frozen
matrices too, and put together when they are needed. The frozen vision side stays whole in every process: each sees
other pictures, and how many of them is not the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ...reference.model import TinyGPTVReference
from .world import World


class LossModule(nn.Module):
    """The loss as a module over the parts of the model that it trains: the outermost module is what gets wrapped."""

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(dict(parts))
        self.compute: Callable[..., Tensor] | None = None

    def forward(self, *arguments: Any) -> Tensor:
        """The loss of these arguments."""
        assert self.compute is not None, "bind() comes first"
        return self.compute(*arguments)


class Shared:
    """The loss of one process, in step with the others. Made before the optimiser: under FSDP the model's parameters
    become other objects."""

    def __init__(self, world: World, model: TinyGPTVReference, *, qformer: bool = False) -> None:
        """model: what is trained requires gradients already. qformer: whether that is trained."""
        self.world = world
        self.parts: dict[str, nn.Module] = {"text": model.text, "projector": model.projector}
        if qformer:
            self.parts["qformer"] = model.qformer
        self._loss = LossModule(self.parts)
        self._module: nn.Module = self._loss
        if world.kind == "ddp":
            # Every process reads the same files, and their digests are compared: there is nothing to send around, and
            # frozen tensors may be views of a file that nobody may write to.
            self._module = DistributedDataParallel(self._loss, init_sync=False)
        elif world.kind == "fsdp":
            self._cut(model)

    def _cut(self, model: TinyGPTVReference) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        # Named, since FSDP would otherwise take a GPU wherever there is one.
        mesh = init_device_mesh(model.text.embed.weight.device.type, (self.world.size,))
        for layer in model.text.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model.text.head, mesh=mesh)
        # The token embedding is looked up once per piece of text, in each process another number of times: it is in the
        # root's group, which is put together once for the whole pass.
        fully_shard(self._loss, mesh=mesh)

    def bind(self, compute: Callable[..., Tensor]) -> None:
        """``compute`` is how the loss is computed, on the model's own modules."""
        self._loss.compute = compute

    def loss(self, *arguments: Any) -> Tensor:
        """This process's part of the loss. Every process must call it equally often."""
        return self._module(*arguments)

    def quiet(self, more: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of a part after which ``more`` come: gradients are added up before they are
        sent. FSDP sends each part's, so that no process ever holds a whole gradient."""
        return self._module.no_sync() if more and isinstance(self._module, DistributedDataParallel) else nullcontext()

    def unseen(self) -> Tensor:
        """Zero, by way of everything that only pictures reach, to be added to the rows of a process that sees none:
        without it that process would have no gradient there to average, or send its layers' in another order, and the
        others would wait."""
        reached = [p for name in ("projector", "qformer") if name in self.parts for p in self.parts[name].parameters()]
        return torch.stack([p.sum() for p in reached if p.requires_grad]).sum() * 0.0

    def forget_unseen(self) -> None:
        """No gradient at all where no picture was seen by anybody, as in one process."""
        for name in ("projector", "qformer"):
            for parameter in self.parts[name].parameters() if name in self.parts else ():
                parameter.grad = None

    def norms(self, gradients: Mapping[str, Tensor]) -> dict[str, float]:
        """The norm of each whole gradient, the same in every process."""
        if self.world.kind != "fsdp":  # DDP has made the gradients equal
            return {name: gradient.norm().item() for name, gradient in gradients.items()}
        squares = torch.tensor([local(each).double().square().sum().item() for each in gradients.values()]).double()
        torch.distributed.all_reduce(squares)
        return dict(zip(gradients, squares.sqrt().tolist(), strict=True))


def _is_cut(tensor: Tensor) -> bool:
    """Whether it is a DTensor; told by a method, since importing the class takes a second."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """What of ``tensor`` this process holds."""
    return tensor.to_local() if _is_cut(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """All of ``tensor``; under FSDP every process must ask, in the same order."""
    return tensor.full_tensor() if _is_cut(tensor) else tensor  # type: ignore[attr-defined]


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """``tensor``, whole, cut as ``like`` is. Nothing is sent."""
    if not _is_cut(like):
        return tensor
    from torch.distributed.tensor import DTensor

    assert isinstance(like, DTensor)
    mesh = like.device_mesh
    pieces = tensor.to(local(like).device).chunk(mesh.size(), dim=0)  # the cut of FSDP2
    rank = mesh.get_local_rank()
    piece = pieces[rank] if rank < len(pieces) else tensor.new_empty((0, *tensor.shape[1:]))
    return DTensor.from_local(
        piece.contiguous(), mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def whole_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's ``state_dict`` with whole tensors; every process must ask."""
    data = optimizer.state_dict()
    data["state"] = {at: {key: _whole_or(value) for key, value in one.items()} for at, one in data["state"].items()}
    return data


def _whole_or(value: Any) -> Any:
    return whole(value) if isinstance(value, Tensor) else value


def state_part(data: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """``data`` of ``whole_state`` with moments cut as the optimiser's parameters are."""
    parameters: Sequence[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
    cut = {
        at: {key: part_of(value, parameters[at]) if key != "step" else value for key, value in one.items()}
        for at, one in data["state"].items()
    }
    return {**data, "state": cut}
