"""What is to be measured, checked before anything is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..config import TextConfig
from ..errors import InvalidArgumentError

SHAPES: Mapping[str, TextConfig] = MappingProxyType(
    {
        "phi2": TextConfig(),
        "tiny": TextConfig(
            width=96, layers=2, heads=4, head_dim=24, rotary_dims=8, mlp_width=192, vocab_size=640, max_positions=512
        ),
    }
)
"""Sizes that can be measured with random weights: the released model's backbone, and one for trying the tool out."""

SECTIONS = ("kernels", "decode", "prefill", "batch", "engine", "load", "ttft", "vision", "jitter", "soak")
LONG = ("vision", "jitter", "soak")
"""Sections of minutes each: measured only when they are named."""

KV_DTYPES = ("int8", "float16", "bfloat16", "float32")
GROUPS = (32, 64, 128)
MAX_ROUNDS = 1000


@dataclass(frozen=True)
class Options:
    """model: a directory or 'demo', or None for random weights of ``shape``. only: sections, () for all but ``LONG``.

    group_size None: 32, or the directory's. threads 0: the physical cores. isa "": the widest. rounds: blocks that
    must count for a figure (None: 9, or 2 with ``quick``). quick: short contexts, short blocks, to see that it works.
    """

    model: str | None = None
    shape: str | None = None
    only: tuple[str, ...] = ()
    group_size: int | None = None
    kv_dtype: str = "int8"
    threads: int = 0
    isa: str = ""
    rounds: int | None = None
    quick: bool = False

    def __post_init__(self) -> None:
        if self.model is not None and self.shape is not None:
            raise InvalidArgumentError("both --model and --shape are given, expected one of them")
        _one_of("shape", self.shape, (None, *SHAPES))
        for section in self.only:
            _one_of("only", section, SECTIONS)
        _one_of("group", self.group_size, (None, *GROUPS))
        if self.model is not None and self.group_size is not None:
            raise InvalidArgumentError("--group is given with --model, whose directory has its own group size")
        _one_of("kv", self.kv_dtype, KV_DTYPES)
        if type(self.threads) is not int or not 0 <= self.threads <= 1024:
            raise InvalidArgumentError(f"threads is {self.threads!r}, expected an integer 0..1024")
        if self.rounds is not None and not 1 <= self.rounds <= MAX_ROUNDS:
            raise InvalidArgumentError(f"rounds is {self.rounds!r}, expected an integer 1..{MAX_ROUNDS}")

    @property
    def sections(self) -> tuple[str, ...]:
        """What to measure, in the order of ``SECTIONS``."""
        return tuple(name for name in SECTIONS if (name in self.only if self.only else name not in LONG))

    @property
    def blocks(self) -> int:
        """Blocks that must count for a figure."""
        return self.rounds or (2 if self.quick else 9)

    @property
    def few_blocks(self) -> int:
        """The same for figures whose blocks take seconds."""
        return max(1, min(3, self.blocks))

    def to_dict(self) -> dict[str, object]:
        """json-ready."""
        return dataclasses.asdict(self)


def _one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        shown = ", ".join(str(choice) for choice in choices if choice is not None)
        raise InvalidArgumentError(f"--{name} is {value!r}, expected one of {shown}")
