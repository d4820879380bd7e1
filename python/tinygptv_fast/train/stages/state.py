"""A run's state on the disk, and the marks by which a directory is known to belong to this code, config and data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ... import __version__
from ...errors import CheckpointError, InvalidArgumentError
from ..saving import load_state_file
from .config import StageConfig
from .sharding import part_of, state_part, whole, whole_state

STATE_FILE = "state.pt"
_PACKAGE = Path(__file__).resolve().parents[2]
# the code that decides a run's numbers
_NUMERICS = ("reference/*.py", "train/stages/*.py", "processing/*.py", "data/readers/*.py", "data/randomness.py")


def code_digest() -> str:
    """sha256 over the Python code a run's numbers depend on."""
    digest = hashlib.sha256()
    for pattern in _NUMERICS:
        for path in sorted(_PACKAGE.glob(pattern)):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def fingerprint(config: StageConfig, model: str, data: str) -> dict[str, Any]:
    """What must be equal for a run to go on to the bit. model, data: digests of what it starts from and learns from."""
    return {
        "version": __version__,
        "code": code_digest(),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "config": config.to_dict(),
        "model": model,
        "data": data,
    }


_SOFT = ("version", "code", "torch", "threads")  # may change, at the price of the bit


def differences(saved: dict[str, Any], now: dict[str, Any], *, allow_other_code: bool) -> list[str]:
    """One phrase per thing that differs."""
    out = []
    for key, value in now.items():
        if saved.get(key) == value or (allow_other_code and key in _SOFT):
            continue
        if key == "config":
            old = {**StageConfig().to_dict(), **(saved.get("config") or {})}  # a setting that is newer than the run
            names = sorted(name for name in {*old, *value} if old.get(name) != value.get(name))
            out += [f"config.{name} was {old.get(name)!r}, is {value.get(name)!r}" for name in names]
        elif key in ("version", "torch", "threads"):
            out.append(f"{key} was {saved.get(key)}, is {value}")
        else:
            what = {"code": "the training code", "model": "the model it starts from", "data": "the data"}[key]
            out.append(f"{what} is another")
    return out


@dataclass
class Progress:
    """Where a run is: steps done, seconds spent."""

    step: int = 0
    seconds: float = 0.0


def snapshot(
    marks: dict[str, Any], progress: Progress, trained: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """What ``load_state`` reads. Its tensors are whole, whoever holds which part: any number of processes can go on
    from it. Every process must ask."""
    return {
        "marks": marks,
        "step": progress.step,
        "seconds": progress.seconds,
        "trained": {name: whole(p.detach()) for name, p in trained.items()},
        "optimizer": whole_state(optimizer),
    }


def load_state(
    path: Path,
    marks: dict[str, Any],
    trained: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    *,
    allow_other_code: bool = False,
) -> Progress:
    """Put the state at ``path`` into ``trained`` and ``optimizer``.

    Raises InvalidArgumentError listing what differs if it belongs to another run, CheckpointError if it is damaged.
    """
    data = load_state_file(path)
    try:
        different = differences(data["marks"], marks, allow_other_code=allow_other_code)
        if different:
            only_code = not differences(data["marks"], marks, allow_other_code=True)
            hint = "; --allow-other-code continues all the same, though not to the bit" if only_code else ""
            raise InvalidArgumentError(f"{path} belongs to another run: {'; '.join(different)}{hint}")
        tensors = data["trained"]
        if list(tensors) != list(trained):
            raise CheckpointError(f"{path} holds other trained tensors than this run")
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(part_of(tensors[name], parameter))
        optimizer.load_state_dict(state_part(data["optimizer"], optimizer))
        return Progress(int(data["step"]), float(data["seconds"]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, (InvalidArgumentError, CheckpointError)):
            raise
        raise CheckpointError(f"{path} is not the state of such a run: {type(error).__name__}: {error}") from error
