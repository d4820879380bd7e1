"""What the quantisation benchmarks share: llama.cpp's Q4_0 rule, the limits to meet, and JSON lines with the commit."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch

from tinygptv_fast.bench.runner import git_hash

RESULTS = Path(__file__).parent / "results"
# Root mean square error on N(0,1) weights, float16 scales: limits this package sets itself, symmetric and not.
LIMITS = {
    True: {32: 0.0815, 64: 0.0903, 128: 0.0973},
    False: {32: 0.0775, 64: 0.0875, 128: 0.0955},
}


def q4_0(w: torch.Tensor, group: int) -> torch.Tensor:
    """What llama.cpp's Q4_0 rule (there with groups of 32) makes of w [N, K], K a multiple of ``group``.

    s = −(signed value of largest magnitude) / 8 stored as float16, q = ⌊w·(1/s) + 8.5⌋ kept in 0..15.
    """
    g = w.view(-1, group)
    extreme = g.gather(1, g.abs().argmax(1, keepdim=True))
    scale = extreme / -8
    inverse = torch.where(scale == 0, 0.0, 1 / scale)
    q = (g * inverse + 8.5).floor().clamp(0, 15)
    return ((q - 8) * scale.half().float()).view_as(w)


def round_to_nearest(w: torch.Tensor, group: int) -> torch.Tensor:
    """Plain symmetric rounding: s = max|w| / 7, levels −7..7, float16 scales."""
    g = w.view(-1, group)
    scale = (g.abs().amax(1, keepdim=True) / 7).half().float()
    return ((g / scale).round().clamp(-7, 7) * scale).view_as(w)


def rmse(w: torch.Tensor, stored: torch.Tensor) -> float:
    return float((w - stored).double().square().mean().sqrt())


def append(file: str, records: list[dict[str, Any]]) -> None:
    """Append one JSON line per record to benchmarks/results/``file``."""
    RESULTS.mkdir(exist_ok=True)
    common = {"commit": git_hash(), "torch": torch.__version__, "machine": platform.machine()}
    with (RESULTS / file).open("a", encoding="utf-8") as out:
        for record in records:
            out.write(json.dumps(common | record) + "\n")
