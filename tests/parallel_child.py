"""One process of a two-process run, for tests/train/test_parallel.py: what is asked for, one after the other."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch

from stage_support import PICTURES, begin, mixed_data, parallel_settings
from tinygptv_fast.errors import TinyGPTVError
from tinygptv_fast.train.stages.config import StageConfig
from tinygptv_fast.train.stages.examples import Example, Turn
from tinygptv_fast.train.stages.run import Trainer, train_stage
from tinygptv_fast.train.stages.world import World, open_world


def say(world: World, what: str, text: str) -> None:
    """A line of json with the process's number."""
    print(json.dumps({"rank": world.rank, "what": what, "text": text}), flush=True)


def curves(world: World, model: Path, folder: Path) -> None:
    """A whole run, saved once on the way."""
    config = parallel_settings()
    assert world.kind is not None
    out = folder / world.kind
    train_stage(begin(model, config), config, mixed_data(folder, config), out, world=world)


def trainer(world: World, model: Path, folder: Path, name: str, **how: Any) -> Trainer:
    config: StageConfig = how.pop("config", parallel_settings())
    batches = how.pop("batches", None) or mixed_data(folder, config)
    return Trainer(begin(model, config), config, batches, folder / f"{world.kind}-{name}", world=world)


def expect_error(world: World, what: str, made: Trainer) -> None:
    try:
        made.run()
    except TinyGPTVError as error:
        say(world, f"{world.kind} {what}", f"{type(error).__name__}: {error}")
    else:
        say(world, f"{world.kind} {what}", "no error")


def bad_weight(world: World, model: Path, folder: Path) -> None:
    """A NaN in one process's copy (or part) of a frozen weight."""
    made = trainer(world, model, folder, "weight")
    if world.rank == 1:
        weight = dict(made.start.model.named_parameters())["text.layers.1.mlp.fc1.weight"]
        local = weight.to_local() if hasattr(weight, "to_local") else weight
        bad = local.detach().clone()
        bad.view(-1)[0] = float("nan")
        local.data.copy_(bad) if hasattr(weight, "to_local") else setattr(weight, "data", bad)
    expect_error(world, "weight", made)


def bad_output(world: World, model: Path, folder: Path) -> None:
    """Every weight is finite, but in one process what a module returns is not."""
    made = trainer(world, model, folder, "output")
    if world.rank == 1:
        norm = made.start.model.text.layers[2].norm
        norm.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    expect_error(world, "output", made)


def bad_gradient(world: World, model: Path, folder: Path) -> None:
    """The loss is finite, but in one process a gradient is not."""
    made = trainer(world, model, folder, "gradient")
    if world.rank == 1:
        made.start.model.text.layers[1].norm.register_full_backward_hook(
            lambda module, inputs, outputs: tuple(None if each is None else each * float("nan") for each in inputs)
        )
    expect_error(world, "gradient", made)


def bad_picture(world: World, model: Path, folder: Path) -> None:
    """A picture that only one process opens cannot be read."""
    broken = folder / "broken.png"
    config = dataclasses.replace(parallel_settings(), accumulation=1, batch_size=2)
    if world.first:
        broken.write_bytes(b"no picture")
    torch.distributed.barrier()
    pictures = [PICTURES[0], broken]
    examples = [Example((Turn("what?", "a dog"),), images=(each,), where=each.name) for each in pictures]
    expect_error(world, "picture", trainer(world, model, folder, "picture", config=config, batches=InOrder(examples)))


class InOrder:
    """The same examples at every step, the second always in process 1's share."""

    digest = "two"

    def __init__(self, examples: list[Example]) -> None:
        self.examples = examples

    def batch(self, step: int) -> list[Example]:
        return self.examples


def refusals(world: World, model: Path, folder: Path) -> None:
    """What is wrong before the first step."""
    small = dataclasses.replace(parallel_settings(), batch_size=3)
    mine = mixed_data(folder, small)
    other = dataclasses.replace(mine, digest=f"data of {world.rank}")
    for what, config, batches in (("small", small, mine), ("data", parallel_settings(), other)):
        try:
            trainer(world, model, folder, what, config=config, batches=batches)
        except TinyGPTVError as error:
            say(world, f"{world.kind} {what}", f"{type(error).__name__}: {error}")


DEEDS = {each.__name__: each for each in (curves, bad_weight, bad_output, bad_gradient, bad_picture, refusals)}


def main(deeds: str, model: str, folder: str) -> None:
    torch.set_num_threads(1)
    with open_world("ddp") as world:
        for deed in deeds.split(","):
            name, _, kind = deed.partition(":")
            DEEDS[name](dataclasses.replace(world, kind=kind), Path(model), Path(folder))  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
