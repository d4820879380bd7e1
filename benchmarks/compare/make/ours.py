"""Writes our model directory from the checkpoint, with the package's own converter.

    python ours.py CHECKPOINT OUT --group 32|128 [--norms]

Without ``--norms`` it is the stock Phi-2 that the other engines run: the directory of the accuracy rows. With them it
has TinyGPT-V's q/k norms and post-attention norm, gains 1 + small noise: the directory that is timed, since that is
the model the package is for and the extra work counts against it. No end token, so nothing stops early.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch

from tinygptv_fast.checkpoint.architecture import read_architecture
from tinygptv_fast.checkpoint.names import canonical_shapes
from tinygptv_fast.checkpoint.plan import Plan, make_plan
from tinygptv_fast.checkpoint.recipe import Recipe
from tinygptv_fast.config import ModelConfig, QuantizationConfig
from tinygptv_fast.conversion.writing import write_model

GAIN_NOISE, BIAS_NOISE = 0.1, 0.02


def norms(config: ModelConfig, names: set[str], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, shape in canonical_shapes(config).items():
        if name not in names:
            gain = name.endswith("weight")
            noise = torch.randn(shape, generator=generator) * (GAIN_NOISE if gain else BIAS_NOISE)
            out[name] = noise + (1.0 if gain else 0.0)
    return out


def tensors(plan: Plan, config: ModelConfig, seed: int) -> Iterator[tuple[str, torch.Tensor | Recipe]]:
    yield from plan.recipes.items()
    yield from norms(config, set(plan.recipes), seed).items()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--group", type=int, default=32)
    parser.add_argument("--norms", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    plan = make_plan(arguments.checkpoint, architecture=read_architecture(None))
    text = dataclasses.replace(plan.config.text, qk_norm=arguments.norms, post_attention_norm=arguments.norms)
    config = dataclasses.replace(
        plan.config,
        text=text,
        quantization=QuantizationConfig(text="int4", group_size=arguments.group),
        eos_token_id=None,
    )
    write_model(arguments.out, config, tensors(plan, config, arguments.seed), plan.tokenizer_file)


if __name__ == "__main__":
    main()
