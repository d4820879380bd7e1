"""Who races: every engine, the file it runs, and how many bits of weights it reads per weight and token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BLOCK_WEIGHTS = 32 * (4 * 2560 * 2560 + 2 * 2560 * 10240)
HEAD_WEIGHTS = 51200 * 2560
WEIGHTS = BLOCK_WEIGHTS + HEAD_WEIGHTS  # read for every token; the embedding is one row
OURS = "ours"


@dataclass(frozen=True)
class Entry:
    """One row of the race.

    module: in ``engines/``. environment: its ``requirements/`` and ``WORK/venv-*``; None is the interpreter of the
    race. path: in ``WORK/models``. accuracy_path: what the accuracy row is measured on, if not ``path``. group: the
    class of weights it is compared in. bits: stored bits per weight that is read for a token, scales included.
    every_round: False for rows that are there for the record and run in the last round.
    """

    name: str
    module: str
    environment: str | None
    path: str
    group: int | None
    bits: float
    options: Mapping[str, Any] = field(default_factory=dict)
    accuracy_path: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    steps: int = 48
    every_round: bool = True
    decode: tuple[int, ...] = (64, 1024)
    prefill: tuple[int, ...] = (64, 256, 1024)
    sequences: tuple[int, ...] = (8,)

    @property
    def family(self) -> str:
        return self.name.split("-")[0]

    @property
    def bytes_per_token(self) -> float:
        return WEIGHTS * self.bits / 8


def _ours(group: int, bits: float, suffix: str = "", **settings: Any) -> Entry:
    folder = f"ours-int4-g{group}"
    base: dict[str, Any] = {"decode": (64, 1024, 1984), "sequences": (2, 3, 4, 8), "accuracy_path": f"{folder}-stock"}
    return Entry(f"{OURS}-g{group}{suffix}", "ours", None, folder, group, bits, **{**base, **settings})


_DECODE_ONLY: dict[str, Any] = {"every_round": False, "decode": (64,), "prefill": (64,), "sequences": ()}
_OV_G128_BITS = (BLOCK_WEIGHTS * 4.125 + HEAD_WEIGHTS * 8) / WEIGHTS  # its exporter keeps the head in int8
_Q4_K_M_BITS = 5.185  # summed over the tensors of the file

ENTRIES = (
    _ours(32, 4.5),
    Entry("llamacpp-q4_0", "llamacpp", "llamacpp", "phi2-q4_0_pure.gguf", 32, 4.5),
    Entry("onnxruntime-b128", "ort", "onnxruntime", "ort-int4-b128", 128, 4.25),
    Entry("openvino-g32", "ov", "openvino", "ov-int4-g32", 32, 4.5),
    _ours(128, 4.125),
    Entry("onnxruntime-b32", "ort", "onnxruntime", "ort-int4-b32", 32, 5.0),
    Entry("openvino-g128", "ov", "openvino", "ov-int4-g128", 128, _OV_G128_BITS),
    # in the last round alone, in this order while there is time
    _ours(32, 4.5, "-api", options={"level": "api"}, every_round=False, decode=(64,), prefill=(64,), sequences=(8,)),
    _ours(32, 4.5, "-avx2", variables={"TINYGPTV_CPU_ISA": "avx2"}, **_DECODE_ONLY),
    Entry("llamacpp-q4_0-avx2", "llamacpp", "llamacpp-avx2", "phi2-q4_0_pure.gguf", 32, 4.5, **_DECODE_ONLY),
    Entry(
        "llamacpp-q4_k_m", "llamacpp", "llamacpp", "phi2-q4_k_m.gguf", 32, _Q4_K_M_BITS, steps=32, every_round=False
    ),
    Entry("torch-bf16", "eager", "torch", "phi2-hf", None, 16.0, steps=12, every_round=False),
    Entry(
        "torch-int4_g128", "eager", "torch", "torch-int4-g128.pt", 128, 4.25,
        options={"group": 128}, steps=24, every_round=False,
    ),
)  # fmt: skip


def find(name: str) -> Entry:
    for entry in ENTRIES:
        if entry.name == name:
            return entry
    raise SystemExit(f"no entry {name!r}, expected one of {', '.join(entry.name for entry in ENTRIES)}")
