"""What a training picture of the drawn world costs on one core: scene, pixels, labels, questions.

    python benchmarks/world.py [--pictures 300] [--rounds 5]

Checks that a picture drawn twice has the same pixels, then prints one JSON line with the median over rounds of the
milliseconds a picture takes, each part by itself. Pictures are drawn at 96 to 224 pixels and resized as the trainer's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

from PIL import Image

from tinygptv_fast.data.randomness import generator
from tinygptv_fast.data.world.asking import KINDS, ask
from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.labels import cell_labels, set_targets
from tinygptv_fast.data.world.sampler import training
from tinygptv_fast.data.world.sampling import FULL, TEXT, SceneSpec, scene_from_seed
from tinygptv_fast.data.world.scene import Scene

CANVASES = (96, 128, 160, 224)
PATCH = 8


def pixels(scene: Scene, number: int, side: int) -> Image.Image:
    """The model's input for ``scene``, ``side`` x ``side``."""
    canvas = CANVASES[number % len(CANVASES)] * side // 64
    return draw(scene, canvas).resize((side, side), Image.Resampling.BICUBIC)


def ms_each(work: Callable[[int], object], count: int, rounds: int) -> float:
    """Median over ``rounds`` of the milliseconds of one ``work(number)``, after one round of warm-up."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        for number in range(count):
            work(number)
        times.append((time.perf_counter() - start) * 1e3 / count)
    return round(statistics.median(times[1:]), 3)


def measure(spec: SceneSpec, side: int, count: int, rounds: int) -> dict[str, float]:
    """The parts of one picture, in milliseconds."""
    scenes = [scene_from_seed(seed, spec) for seed in range(count)]
    if any(pixels(s, 0, side).tobytes() != pixels(s, 0, side).tobytes() for s in scenes[:20]):
        raise SystemExit("the same scene gave other pixels")
    kinds = tuple(KINDS)
    return {
        "scene": ms_each(lambda n: scene_from_seed(n, spec), count, rounds),
        "pixels": ms_each(lambda n: pixels(scenes[n], n, side), count, rounds),
        "labels": ms_each(lambda n: (cell_labels(scenes[n], side // PATCH), set_targets(scenes[n])), count, rounds),
        "question": ms_each(lambda n: ask(generator(n), scenes[n], kinds[n % len(kinds)]), count, rounds),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    row = {
        "benchmark": "world",
        "unit": "ms a picture",
        "64": measure(FULL, 64, args.pictures, args.rounds),
        "128": measure(TEXT, 128, args.pictures, args.rounds),
        "training_multitask": ms_each(lambda n: training(0, "multitask", 0, n), args.pictures, args.rounds),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
