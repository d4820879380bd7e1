"""The processes of one run: which of them this is, and what they say to each other. Alone, nothing is said.

``torchrun`` starts the processes. They talk over gloo in host memory; on GPUs the gradients go over NCCL
(``sharding.py``). Rule: whatever one process finds wrong, all end with, and the first one says it. Knows nothing of
models; imports torch only where there is more than one process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from ... import env, errors
from ...errors import InvalidArgumentError, TinyGPTVError, TrainingError

Parallel = Literal["ddp", "fsdp"]
KINDS = ("ddp", "fsdp")


class ReportedByFirst(TrainingError):
    """Raised in every process but the first when the first one raises, and reports, the same error."""


@dataclass(frozen=True)
class World:
    """This process, 0-based ``rank`` of ``size``. kind: "ddp": every process holds the whole model; "fsdp": a part."""

    rank: int = 0
    size: int = 1
    kind: Parallel | None = None
    local_rank: int = 0
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether it is this process that writes, prints and plots."""
        return self.rank == 0

    def device(self, kind: str) -> str:
        """Where this process computes: "cpu", or its own one of the machine's GPUs."""
        return kind if kind == "cpu" or self.kind is None else f"{kind}:{self.local_rank}"

    def sum(self, value: float) -> float:
        """The sum of ``value`` over all processes, the same number in each; NaN or infinity if one has it."""
        if self.size == 1:
            return value
        import torch

        whole = torch.tensor([value], dtype=torch.float64)
        torch.distributed.all_reduce(whole)
        return float(whole.item())

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag whether it is set in at least one process."""
        if self.size == 1:
            return flags
        import torch

        whole = torch.tensor([float(flag) for flag in flags])
        torch.distributed.all_reduce(whole)
        return tuple(bool(value > 0) for value in whole)

    def gather(self, value: Any) -> list[Any]:
        """``value`` of every process by rank, in every process."""
        if self.size == 1:
            return [value]
        import torch

        out: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(out, value)
        return out

    def same(self, error: TinyGPTVError) -> TinyGPTVError:
        """What to raise for an error that every process has found: the first one alone reports it."""
        return error if self.first else ReportedByFirst(str(error))

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """All processes come to the end of the block, or all raise what went wrong in one of them.

        The block must not talk to the other processes. Only errors that are meant (this package's, the operating
        system's) are shared; any other ends this process, and with it the run.
        """
        if self.size == 1:
            yield
            return
        problem: Exception | None = None
        try:
            yield
        except (TinyGPTVError, OSError) as error:
            problem = error
        said = self.gather(None if problem is None else (type(problem).__name__, str(problem)))
        if any(what is not None for what in said):
            raise self.same(_joined(said)) from problem

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Turn the failure of a connection within the block into a TrainingError that says what it means."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or isinstance(error, TinyGPTVError) or not _is_connection(error):
                raise
            raise TrainingError(
                f"process {self.rank} of {self.size}: another process of this run has ended or cannot be reached "
                f"({_first_line(error)}); the state of the last save stands, --resume continues"
            ) from error


ALONE = World()


def _joined(said: Sequence[tuple[str, str] | None]) -> TinyGPTVError:
    """One error for what the processes found. Its type is that of the lowest rank that has one."""
    found = [(rank, *what) for rank, what in enumerate(said) if what is not None]
    rank, kind, text = found[0]
    everywhere = len(found) == len(said) and len({each[2] for each in found}) == 1
    cls = getattr(errors, kind, TrainingError)
    return cls(text if everywhere else f"process {rank} of {len(said)}: {text}")


def _is_connection(error: RuntimeError) -> bool:
    import torch

    words = ("gloo", "NCCL", "Connection closed", "Connection reset")
    return isinstance(error, torch.distributed.DistError) or any(word in str(error) for word in words)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


@contextmanager
def open_world(kind: Parallel | None, device: str = "cpu") -> Iterator[World]:
    """This process's place among those that torchrun started; the connections close with the block.

    kind None: this process alone. device: "cpu" or "cuda". Raises InvalidArgumentError where ``kind`` and the way the
    process was started contradict each other.
    """
    place = env.torchrun_place()
    if kind is None:
        if place is not None and place.size > 1:
            raise InvalidArgumentError(
                f"this is process {place.rank} of {place.size} under torchrun and --parallel is not given, "
                "expected --parallel ddp or fsdp: without it the processes would overwrite each other's run"
            )
        yield ALONE
        return
    if kind not in KINDS:
        raise InvalidArgumentError(f"parallel is {kind!r}, expected one of {', '.join(map(repr, KINDS))}")
    if place is None:
        raise InvalidArgumentError(
            f"--parallel {kind} is given outside of torchrun, expected: torchrun --nproc-per-node 2 "
            f"-m tinygptv_fast train --parallel {kind} ..."
        )
    with _connected(device, place.local_rank):
        yield World(place.rank, place.size, kind, place.local_rank, place.local_size)


@contextmanager
def _connected(device: str, local_rank: int) -> Iterator[None]:
    import torch

    if device == "cuda":
        if torch.cuda.device_count() <= local_rank:
            raise errors.UnsupportedError(
                f"process {local_rank} of this machine needs GPU {local_rank}, torch sees {torch.cuda.device_count()}"
            )
        torch.cuda.set_device(local_rank)
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
