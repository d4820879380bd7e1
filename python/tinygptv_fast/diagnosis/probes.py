"""Rates of this machine for ``fit``, and pieces of the model timed here to stand beside its predictions.

A rate takes a second or so for each number of threads. A piece is made of random numbers, run by the very kernels that
serve, and multiplied up to the model by operations or layers: a check of the prediction, not the model's own time.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .. import _native
from ..config import ModelConfig
from ..errors import UnsupportedError
from ..vision.arithmetic import has_fast_bfloat16
from ..vision.linear import Bfloat16Linear, Int8Linear, Linear, WidenedLinear
from .fit import TEXT_TOKENS, Plan, Rates, prompt_ops, vision_ops

_READ_BYTES = 256 << 20
_PRODUCT = (257, 1408, 6144)  # rows, columns, features: of the tower at 224 px
_TEXT_LAYERS = 4
_LINEAR: dict[str, type[Int8Linear] | type[Bfloat16Linear] | type[WidenedLinear]] = {
    "int8": Int8Linear,
    "bfloat16": Bfloat16Linear,
    "float32": WidenedLinear,
}


def thread_counts(most: int) -> list[int]:
    """1, 2, 4, ... and ``most``."""
    return sorted({most, *(2**power for power in range(most.bit_length()) if 2**power <= most)})


def measure_rates(threads: int, isa: str = "") -> Rates:
    """The rates of ``threads`` threads now."""
    features = _native.cpu_features()
    with _torch_threads(threads):
        bfloat16 = _product_rate(torch.bfloat16) if has_fast_bfloat16(features) else None
        float32 = _product_rate(torch.float32)
    try:
        int8: float | None = float(_native.int8_peak(threads, isa))
    except UnsupportedError:
        int8 = None
    return Rates(threads, float(_native.read_bandwidth(threads, _READ_BYTES, 3)), int8, bfloat16, float32)


@dataclass(frozen=True)
class Piece:
    """A quantity in ``unit`` ("s" or "bytes"), as predicted and as measured here; ``how`` says on what."""

    what: str
    predicted: float
    measured: float
    how: str
    unit: str = "s"


def measure_pieces(config: ModelConfig, plan: Plan, tokens: int, isa: str = "") -> list[Piece]:
    """The parts of ``plan.first_token_s`` that can be measured without the model, on random numbers."""
    out = []
    if plan.vision_arithmetic is not None and config.vision is not None:
        tower = config.vision
        with _torch_threads(plan.threads):
            linear = _random_linear(plan.vision_arithmetic, tower.mlp_width, tower.width)
            x = torch.randn(tower.tokens, tower.width)
            seconds = _median(lambda: linear(x))
        ops = 2 * tower.tokens * tower.width * tower.mlp_width
        whole = seconds * vision_ops(config) / ops
        product = f"one {tower.mlp_width} x {tower.width} product of {tower.tokens} rows"
        how = f"{product}, times {vision_ops(config) / ops:.0f}"
        out.append(Piece("vision", plan.vision_s, whole, how))
    if plan.text in ("int4", "int8"):
        rounds = _native.linear_probe(
            [tokens], kind=plan.text, group_size=plan.group_size, width=config.text.width, layers=_TEXT_LAYERS,
            window=_TEXT_LAYERS, rounds=3, threads=plan.threads, isa=isa,
        )  # fmt: skip
        seconds = statistics.median(float(one["seconds"]) for one in rounds)
        ops_of_window = float(rounds[0]["operations"])
        times = prompt_ops(config, tokens) / ops_of_window
        how = f"the matrices of {_TEXT_LAYERS} layers on {tokens} tokens, times {times:.1f}"
        out.append(Piece("prompt", plan.prompt_s, seconds * times, how))
    return out


def measure_model(path: Path, plan: Plan) -> list[Piece]:
    """A directory loaded as ``plan`` says, asked twice about a random picture (text-only: asked), the second timed."""
    from ..generate import TinyGPTV

    question = " ".join(["word"] * (TEXT_TOKENS - 4))
    with TinyGPTV.from_pretrained(path, kv_dtype=plan.kv_dtype, threads=plan.threads, max_sequences=1) as model:
        prompt = f"<Img><ImageHere></Img> {question}" if model.info["vision"] else question
        for seed in range(2):  # the first builds the vision side
            noise = np.random.default_rng(seed).integers(0, 256, (480, 640, 3), dtype=np.uint8)
            picture = noise if model.info["vision"] else None
            answer = model.generate(picture, prompt, template="raw", max_new_tokens=1)
        resident = _resident_bytes()
    tokens, times = answer.usage.prompt, answer.timings
    return [
        Piece("first token", plan.first_token_s, times.total / 1e3, f"this model, {tokens} tokens of prompt"),
        Piece("memory", plan.memory_bytes, resident, "this process; keys and values count once they are used", "bytes"),
    ]


def _resident_bytes() -> int:
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def _product_rate(dtype: torch.dtype) -> float:
    """Operations per second of torch's product in ``dtype``."""
    rows, columns, features = _PRODUCT
    x, weight = torch.randn(rows, columns).to(dtype), torch.randn(features, columns).to(dtype)
    return 2 * rows * columns * features / _median(lambda: torch.nn.functional.linear(x, weight))


def _random_linear(kind: str, rows: int, columns: int) -> Linear:
    return _LINEAR[kind](torch.randn(rows, columns) / columns**0.5, torch.zeros(rows))


def _median(work: Callable[[], object], times: int = 3) -> float:
    """Seconds of ``work``, which first warms up."""
    work()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


@contextlib.contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
