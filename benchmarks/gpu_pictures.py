"""Pictures on the GPU: the demo model's answers about them beside the CPU's, and what the released tower takes.

python benchmarks/gpu_pictures.py FOLDER-OF-THE-INSTALLED-PACKAGE [--device cuda]

answers   the shipped demo model in the exact mode about drawn scenes: the same ids on GPU and CPU.
tower     random weights of the released sizes at 224 and 448 px, bfloat16 and int8, there all the time or offloaded: ms
          from pixels on the host to visual tokens there (median), bytes that torch holds for it and most bytes while it
          computes.

Prints one JSON line a result; exit code 1 where ids differ. Needs numpy, pillow, tokenizers and torch with CUDA.
--device cpu computes the same by torch on the CPU, to try the program.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from typing import Any

QUESTIONS = 3


def answers(device: str) -> bool:
    """Whether ``device`` says what the CPU says."""
    import tinygptv_fast as tgv
    from tinygptv_fast.data.world.drawing import draw
    from tinygptv_fast.data.world.showcase import SHOWCASE_SIDE, showcase

    requests: list[Any] = []
    for seed in (1, 2):
        example = showcase(seed)
        picture = draw(example.scene, SHOWCASE_SIDE)
        requests += [{"image": picture, "prompt": q.prompt, "task": q.task} for q in example.questions[:QUESTIONS]]
    found: dict[str, tuple[list[Any], float, Any]] = {}
    for where in ("cpu", device):
        with tgv.TinyGPTV.from_pretrained("demo", dtype="float32", device=where, kv_tokens=2048) as model:
            begun = time.perf_counter()
            ids = [model.generate(**one).token_ids for one in requests]
            found[where] = ids, time.perf_counter() - begun, model.info["vision_device"]
    ids, seconds, vision_device = found[device]
    same = ids == found["cpu"][0]
    print(json.dumps({"name": "pictures_demo", "vision_device": vision_device, "same_ids_as_the_cpu": same,
                      "seconds": seconds, "questions": len(requests)}))  # fmt: skip
    if not same:
        print(f"{device} says {ids}, expected {found['cpu'][0]}")
    return same


def tower(device: str, size: int, kind: str, offload: bool, layers: int, rounds: int) -> dict[str, Any]:
    import torch

    from tinygptv_fast.vision import VisionTower
    from vision_weights import PoolSource, real_config

    where = torch.device(device, 0) if device == "cuda" else torch.device("cpu")
    made = VisionTower(PoolSource(real_config(size, kind, layers)), kind, gpu=where, offload=offload)
    pixels = torch.randn(3, size, size, generator=torch.Generator().manual_seed(1))
    made.encode(pixels)
    name = f"tower_{kind}_{size}" + ("_offloaded" if offload else "")
    out: dict[str, Any] = {"name": name, "layers": layers, "arithmetic": str(made.arithmetic)}
    if device == "cuda":
        out["held_bytes"] = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        made.encode(pixels)  # the copy back waits for the GPU
        times.append(1e3 * (time.perf_counter() - begun))
    out["ms"] = statistics.median(times)
    if device == "cuda":
        out["most_bytes"] = torch.cuda.max_memory_allocated()
    return out


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--layers", type=int, default=39)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sizes", type=int, nargs="+", default=(224, 448))
    given = parser.parse_args(arguments)
    sys.path.insert(0, given.folder)
    right = answers(given.device)
    for size in given.sizes:
        for kind, offload in itertools.product(("bfloat16", "int8"), (False, True)):
            print(json.dumps(tower(given.device, size, kind, offload, given.layers, given.rounds)), flush=True)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
