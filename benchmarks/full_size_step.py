"""One step of training at the released size, on the CPU: does it fit, where does the time go, was the memory predicted?

The model has random weights (nothing can be learnt from it); everything else is the trainer's own: a stage's config,
LoRA, gradient checkpointing, one example with a picture, AdamW. Weights are made one tensor at a time in their final
type, so that there are never two copies. Prints a line per part and, last, one json line.

Run: python benchmarks/full_size_step.py [--stage 4] [--factor 8]. At factor 1 it takes 11 GB of weights.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stand_in_tokenizer import tokenizer_json
from tinygptv_fast.bench.runner import git_hash
from tinygptv_fast.config import ModelConfig, QFormerConfig, TextConfig, VisionConfig
from tinygptv_fast.errors import TinyGPTVError
from tinygptv_fast.processing.image import ImageProcessor
from tinygptv_fast.processing.templates import get_template
from tinygptv_fast.processing.tokenizer import Tokenizer
from tinygptv_fast.reference.model import TinyGPTVReference
from tinygptv_fast.train.stages.config import StageConfig, load_stage
from tinygptv_fast.train.stages.examples import Example, Turn
from tinygptv_fast.train.stages.footprint import FACTORED, Work, footprint
from tinygptv_fast.train.stages.run import Trainer
from tinygptv_fast.train.stages.start import Start
from tinygptv_fast.train.stages.step import Figures
from tinygptv_fast.train.stages.trainable import is_trained

_POOL = 1 << 22  # random numbers drawn once and used again and again
_KIB = 1024
ANSWER = "a small red boat lies in the harbour, and behind it there are two white houses " * 4


def sizes(factor: int, image_size: int) -> ModelConfig:
    """The released sizes, with widths and numbers of layers divided by ``factor``."""

    def less(number: int) -> int:
        return max(1, number // factor)

    text = TextConfig(
        width=80 * less(32), layers=less(32), heads=less(32), head_dim=80, rotary_dims=32, mlp_width=320 * less(32)
    )
    seen = 88 * less(16)
    vision = VisionConfig(
        image_size=image_size, width=seen, layers=less(39), heads=less(16), mlp_width=int(seen * 4.3637)
    )
    qformer = QFormerConfig(width=64 * less(12), layers=max(2, less(12)), heads=less(12), mlp_width=256 * less(12))
    return ModelConfig(text=text, vision=vision, qformer=qformer)


def random_tensors(model: TinyGPTVReference, config: StageConfig) -> Iterator[tuple[str, Tensor]]:
    """A tensor for every name of ``model`` (on "meta"), each in the type in which the trainer holds it."""
    pool = torch.empty(_POOL).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    frozen = torch.bfloat16 if config.frozen_dtype == "bfloat16" else torch.float32
    for name, parameter in model.named_parameters():
        narrow = parameter.ndim == 2 and name.startswith("text.") and not is_trained(name, config)
        tensor = torch.empty(parameter.shape, dtype=frozen if narrow else torch.float32)
        if parameter.ndim < 2:
            tensor.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        elif name.endswith("lora_b"):
            tensor.zero_()
        else:
            _fill(tensor, pool, 1 / math.sqrt(tensor[0].numel()))
        yield name, tensor


def _fill(tensor: Tensor, pool: Tensor, scale: float) -> None:
    flat = tensor.view(-1)
    for first in range(0, len(flat), len(pool)):
        part = flat[first : first + len(pool)]
        part.copy_(pool[: len(part)]).mul_(scale)


def build(config: ModelConfig, stage: StageConfig, hidden: int) -> Start:
    """A model ready for training."""
    with torch.device("meta"):
        model = TinyGPTVReference(config, lora=stage.lora, projector_hidden=hidden)
    model.load_state_dict(dict(random_tensors(model, stage)), strict=True, assign=True)
    assert config.vision is not None
    template = get_template(stage.template or "train-stage4")
    processor = ImageProcessor(config.vision.image_size)
    return Start(model, Tokenizer.from_string(tokenizer_json()), template, processor, "random weights")


class Clock:
    """Seconds and memory by part. Parts of a step are told apart by hooks, which leave it as it is."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.parts: dict[str, dict[str, float]] = {}
        self._say, self._last = say, time.monotonic()

    def mark(self, part: str) -> None:
        """``part`` has just ended."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        resident, most = rss_gb(), peak_rss_gb()
        self.parts[part] = {"seconds": round(seconds, 3), "rss_gb": resident, "peak_rss_gb": most}
        self._say(f"{part:<10} {seconds:9.2f} s   {resident:6.2f} GB now   {most:6.2f} GB at most")

    def watch(self, trainer: Trainer) -> None:
        """Mark the ends of "vision", "forward", "backward" and "optimizer" of the step that comes."""
        text = trainer.start.model.text
        text.register_forward_pre_hook(lambda *_: self.mark("vision"))
        text.head.register_forward_hook(lambda *_: self.mark("forward"))
        trainer.optimizer.register_step_pre_hook(lambda *_: self.mark("backward"))
        trainer.optimizer.register_step_post_hook(lambda *_: self.mark("optimizer"))


def rss_gb() -> float:
    """Resident memory now, 10^9 bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) * _KIB / 1e9, 3)
    raise OSError("/proc/self/status has no VmRSS")


def peak_rss_gb() -> float:
    """Most that was resident so far, 10^9 bytes."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB / 1e9, 3)


class OneExample:
    """The ``Batches`` of a run of one example: a picture of noise with a question and an answer."""

    digest = "one example"

    def __init__(self, size: int) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
        self.example = Example((Turn("What is in the picture?", ANSWER),), (Image.fromarray(noise),), "vqa")

    def batch(self, step: int) -> list[Example]:
        """The same example at every step."""
        return [self.example]


def measure(stage_number: int, factor: int, changes: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """One step; the record. Raises TinyGPTVError where the step goes wrong."""
    stage = load_stage(stage_number, changes={"batch_size": 1, "accumulation": 1, "recompute": True, **changes})
    assert stage.image_size is not None
    config = sizes(factor, stage.image_size)
    before, clock = rss_gb(), Clock(say)
    start = build(config, stage, FACTORED // factor)
    clock.mark("build")
    with TemporaryDirectory() as folder:
        batches = OneExample(stage.image_size)
        trainer = Trainer(start, stage, batches, Path(folder))
        clock.watch(trainer)
        clock.mark("prepare")
        figures = trainer.stepper.run(0, batches.batch(0))
    work = Work(1, figures.tokens + 1, figures.learnt)  # and a BOS
    predicted = footprint(config, stage, work, projector_hidden=FACTORED // factor)
    return _record(stage, factor, start, clock, figures, before, predicted.alone.total)


def _record(
    stage: StageConfig, factor: int, start: Start, clock: Clock, figures: Figures, before: float, predicted: int
) -> dict[str, Any]:
    parameters = list(start.model.parameters())
    return {
        "benchmark": "full_size_step",
        "git": git_hash(),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "stage": stage.stage,
        "factor": factor,
        "precision": stage.precision,
        "frozen_dtype": stage.frozen_dtype,
        "recompute": stage.recompute,
        "parameters": sum(p.numel() for p in parameters),
        "trained": sum(p.numel() for p in parameters if p.requires_grad),
        "tokens": figures.tokens,
        "learnt": figures.learnt,
        "loss": round(figures.loss, 4),
        "gradient": float(f"{figures.gradient:.4g}"),
        "seconds": {part: values["seconds"] for part, values in clock.parts.items()},
        "rss_before_gb": before,
        "peak_rss_gb": peak_rss_gb(),
        "predicted_gb": round(before + predicted / 1e9, 3),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0; 2 for bad arguments, 1 where the step itself goes wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", type=int, choices=(1, 2, 3, 4), default=4, help="of the recipe (4)")
    parser.add_argument("--factor", type=int, default=1, help="divide widths and numbers of layers by this (1)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16", help="autocast (bfloat16)")
    parser.add_argument("--frozen-dtype", choices=("float32", "bfloat16"), default="bfloat16", help="(bfloat16)")
    parser.add_argument("--image-size", type=int, default=None, help="side in pixels (the stage's)")
    parser.add_argument("--threads", type=int, default=None, help="torch threads (torch's own choice)")
    options = parser.parse_args(arguments)
    if options.factor < 1:
        parser.error(f"--factor is {options.factor}, expected an integer >= 1")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    changes = {"precision": options.precision, "frozen_dtype": options.frozen_dtype}
    if options.image_size is not None:
        changes["image_size"] = options.image_size
    try:
        record = measure(options.stage, options.factor, changes, lambda text: print(text, file=sys.stderr, flush=True))
    except TinyGPTVError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
