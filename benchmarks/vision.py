"""The vision side at the released sizes: error, speed and memory of each arithmetic. One json line per figure.

errors  embeddings [32, 2560] of one random picture against float32, weights drawn by the rules of make_full_size.py,
        without and with outliers; all arithmetics go through the tower side by side, so one block is in memory.
speed   interleaved rounds of torch's plain bfloat16 (the reference modules in bfloat16, attention through
        scaled_dot_product_attention) and of ours; ratios are medians of the rounds' ratios.
memory  a fresh process loads the int8 tower from a file of the real size and encodes.

Predicted on two Zen 5 cores (bfloat16 products 0.75 TFLOP/s in torch, int8 1.6 TOP/s): products of 506 GFLOP at 224 px
and 2.02 TFLOP at 448, attention of 14 and 231 GFLOP; ours needs 0.32 + 0.1 s and 1.26 + 0.55 + 0.3 s.

    python benchmarks/vision.py --only speed --sizes 224
    python benchmarks/vision.py --json --save        # appends to benchmarks/results/vision.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantize_common import append
from tinygptv_fast import _native
from tinygptv_fast.checkpoint.directory import ModelDirectory
from tinygptv_fast.checkpoint.names import parts
from tinygptv_fast.checkpoint.safetensors_file import SafetensorsFile
from tinygptv_fast.config import ModelConfig
from tinygptv_fast.processing.image import ImageProcessor
from tinygptv_fast.reference.projector import Projector
from tinygptv_fast.reference.qformer import QFormer
from tinygptv_fast.reference.vision import VisionAttention
from tinygptv_fast.reference.vision import VisionTower as EagerTower
from tinygptv_fast.vision import VisionTower, choose_arithmetic
from tinygptv_fast.vision.blocks import Queries, Rows
from tinygptv_fast.vision.tower import step_makers
from vision_weights import DrawnSource, PoolSource, real_config, write_directory

LIMITS = {"bfloat16": 0.01, "int8": 0.03}
RATIO_LIMITS = {224: 0.55, 448: 0.70}


def flops(config: ModelConfig) -> int:
    """Multiplications and additions of the tower for one picture: its products and its attention."""
    vision = config.vision
    assert vision is not None
    tokens, width = vision.tokens, vision.width
    block = 2 * tokens * (4 * width * width + 2 * width * vision.mlp_width) + 4 * tokens * tokens * width
    return vision.layers * block + 2 * (tokens - 1) * 3 * vision.patch_size**2 * width


def relative(x: Tensor, exact: Tensor) -> float:
    return float((x - exact).double().norm() / exact.double().norm())


# --- errors -----------------------------------------------------------------------------------------------------------
@torch.no_grad()
def errors(size: int, outliers: bool, layers: int) -> list[dict[str, Any]]:
    config = real_config(size, "float32", layers)
    assert config.vision is not None and config.qformer is not None
    source = DrawnSource(config, outliers)
    pixels = torch.randn(3, size, size, generator=torch.Generator().manual_seed(1))
    kinds = {kind: choose_arithmetic(kind, "float32", _native.cpu_features()) for kind in ("float32", *LIMITS)}
    rows = {kind: Rows(pixels) for kind in kinds}
    tower = dict.fromkeys(LIMITS, 0.0)
    before = pixels  # what float32 gave this step to work on
    for make in step_makers(config.vision, config.qformer):
        for kind, how in kinds.items():
            step = make(source, how)
            if kind in LIMITS and isinstance(step, Queries):
                tower[kind] = relative(rows[kind].x, before)
            if kind == "float32":
                before = rows[kind].x
            step(rows[kind])
    weights = "outliers" if outliers else "plain"
    return [
        {
            "figure": "error", "size": size, "layers": layers, "weights": weights, "arithmetic": str(kinds[kind]),
            "embeddings": relative(rows[kind].x, rows["float32"].x), "tower_rows": tower[kind], "limit": limit,
        }
        for kind, limit in LIMITS.items()
    ]  # fmt: skip


# --- speed ------------------------------------------------------------------------------------------------------------
class EagerAttention(VisionAttention):
    """The usual way to write it in torch."""

    def forward(self, x: Tensor) -> Tensor:
        B, I, E = x.shape  # noqa: E741
        q, k, v = self.qkv(x).view(B, I, 3, self.heads, E // self.heads).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, I, E))


class Eager(nn.Module):
    """The reference's modules in plain torch bfloat16."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.vision is not None and config.qformer is not None
        with torch.device("meta"):
            self.vision = EagerTower(config.vision)
            self.ln_vision = nn.LayerNorm(config.vision.width)
            self.qformer = QFormer(config.qformer, config.vision.width)
            self.projector = Projector(config.qformer.width, config.text.width)
        self.to_empty(device="cpu").to(torch.bfloat16).requires_grad_(False)
        pool = torch.randn(1 << 20) * 0.02
        for name, parameter in self.named_parameters():
            parameter.copy_(pool.repeat(-(-parameter.numel() // (1 << 20)))[: parameter.numel()].view_as(parameter))
            if "norm" in name and name.endswith("weight"):
                parameter.fill_(1)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.projector(self.qformer(self.ln_vision(self.vision(pixels))))


@torch.no_grad()
def speed(size: int, rounds: int, layers: int) -> list[dict[str, Any]]:
    config = real_config(size, "int8", layers)
    ours: dict[str, VisionTower] = {}
    out: list[dict[str, Any]] = []
    for kind in ("int8", "bfloat16"):
        source = PoolSource(real_config(size, kind, layers))
        began = time.perf_counter()
        ours[kind] = VisionTower(source, kind)
        seconds = time.perf_counter() - began
        print(f"loaded {kind} in {seconds:.1f} s", file=sys.stderr)
        out.append({"figure": "load", "size": size, "arithmetic": kind, "seconds": seconds})
    eager = Eager(config)
    for layer in eager.vision.layers:
        layer.attn.__class__ = EagerAttention
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    pixels = ImageProcessor(size).pixels(picture)
    narrow = pixels[None].to(torch.bfloat16)
    runs: dict[str, Callable[[], object]] = {
        "eager bfloat16": lambda: eager(narrow),
        **{kind: lambda tower=tower: tower.encode(pixels) for kind, tower in ours.items()},  # type: ignore[misc]
        "preprocess": lambda: ImageProcessor(size).pixels(picture),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    busy: dict[str, list[float]] = {name: [] for name in runs}  # CPU time: with one thread it does not see others
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            began, worked = time.perf_counter(), time.process_time()
            run()
            times[name].append(time.perf_counter() - began)
            busy[name].append(time.process_time() - worked)
        print({name: round(values[-1], 3) for name, values in busy.items()}, file=sys.stderr)
    for name, values in times.items():
        ratio = float(np.median(np.divide(values, times["eager bfloat16"])))
        record: dict[str, Any] = {"figure": "speed", "size": size, "layers": layers, "what": name,
                  "median_s": float(np.median(values)),
                  "p10_s": float(np.quantile(values, 0.1)), "p90_s": float(np.quantile(values, 0.9)),
                  "rounds": rounds}  # fmt: skip
        if name != "preprocess":
            record |= {"gflops": flops(config) / 1e9 / record["median_s"], "ratio_to_eager": ratio}
            record["cpu_median_s"] = float(np.median(busy[name]))
            record["cpu_ratio_to_eager"] = float(np.median(np.divide(busy[name], busy["eager bfloat16"])))
        if name == "int8":
            record["limit"] = RATIO_LIMITS.get(size)
        out.append(record)
    return out


# --- memory -----------------------------------------------------------------------------------------------------------
def _status() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    wanted = ("VmHWM", "VmRSS", "RssAnon", "RssFile")
    return {k: int(v.split()[0]) << 10 for k, v in (line.split(":") for line in lines) if k in wanted}


def memory_here(folder: Path, config: ModelConfig) -> dict[str, Any]:
    """In a process of its own: bytes that the int8 tower in ``folder`` adds, at rest and at its peak."""
    assert config.vision is not None
    size = config.vision.image_size
    directory = ModelDirectory(folder, config, SafetensorsFile(folder / "model.safetensors"))
    names = [name for name in directory.names() if not name.startswith("text.")]
    kinds = {name: (directory.shape(name), directory.kind(name)) for name in names}
    stored = sum(p.nbytes for n, (s, k) in kinds.items() for p in parts(n, s, k, config.quantization))
    before = _status()
    tower = VisionTower(directory, "int8")
    loaded = _status()
    tower.encode(torch.randn(3, size, size))
    after = _status()
    return {
        "figure": "memory", "size": size, "arithmetic": str(tower.arithmetic),
        "stored_bytes": stored,
        "loaded_bytes": loaded["VmRSS"] - before["VmRSS"], "loading_peak_bytes": loaded["VmHWM"] - before["VmRSS"],
        "encoding_peak_bytes": after["VmHWM"] - before["VmRSS"], "at_rest_bytes": after["VmRSS"] - before["VmRSS"],
        "file_pages_bytes": after["RssFile"] - before["RssFile"],
    }  # fmt: skip


def memory(folder: Path, size: int) -> list[dict[str, Any]]:
    if not (folder / "model.safetensors").exists():
        write_directory(folder, real_config(size, "int8"))
    command = [sys.executable, __file__, "--memory-of", str(folder), "--sizes", str(size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(done.stdout.splitlines()[-1])]


# --- the rest ---------------------------------------------------------------------------------------------------------
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=("errors", "speed", "memory"), default=None)
    parser.add_argument("--sizes", type=int, nargs="*", default=[224, 448])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=39, help="blocks of the tower, for errors and speed")
    parser.add_argument("--weights", nargs="*", choices=("plain", "outliers"), default=["plain", "outliers"])
    parser.add_argument("--threads", type=int, default=_native.physical_cores())
    parser.add_argument("--json", action="store_true", help="lines of json in place of text")
    parser.add_argument("--save", action="store_true", help="append the lines to benchmarks/results/vision.jsonl")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(json.dumps(memory_here(arguments.memory_of, real_config(arguments.sizes[0], "int8"))))
        return
    wanted = arguments.only or ("errors", "speed", "memory")
    common = {"benchmark": "vision", "cpu": _native.cpu_brand(), "threads": arguments.threads}
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            jobs: dict[str, Callable[[], list[dict[str, Any]]]] = {
                "errors": lambda size=size: [  # type: ignore[misc]
                    line
                    for weights in arguments.weights
                    for line in errors(size, weights == "outliers", arguments.layers)
                ],
                "speed": lambda size=size: speed(size, arguments.rounds, arguments.layers),  # type: ignore[misc]
                "memory": lambda size=size, folder=folder: memory(Path(folder), size),  # type: ignore[misc]
            }
            for name in wanted:
                records = [{**common, **line, "load_average": os.getloadavg()[0]} for line in jobs[name]()]
                for line in records:
                    print(json.dumps(line) if arguments.json else _text(line), flush=True)
                if arguments.save:
                    append("vision.jsonl", records)


def _text(line: dict[str, Any]) -> str:
    shown = {k: v for k, v in line.items() if k not in ("benchmark", "cpu", "threads", "figure", "load_average")}
    return f"{line['figure']:7s}" + "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in shown.items()
    )


if __name__ == "__main__":
    main()
