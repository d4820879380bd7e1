"""Phase "look": language model and Q-Former learn from kept patches, and from words."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tinygptv_fast.data.world.sampler import training_scene
from tinygptv_fast.train.demo.cache import Cache
from tinygptv_fast.train.demo.looking import Looked, Looking
from tinygptv_fast.train.demo.pictures import Eyes
from tinygptv_fast.train.demo.recipe import SHOWN, TINY, DemoRecipe
from tinygptv_fast.train.demo.stages import SmallExam
from tinygptv_fast.train.precision import autocast

SMALLEST = TINY.scaled(0.001)
SHOWN_OF = {"pretrain": "instruct", "multitask": "multitask"}


def kept_in(folder: Path, recipe: DemoRecipe, many: int = 40) -> list[tuple[Cache, str]]:
    """Patches of nothing in particular, small pictures and large ones."""
    caches = []
    for seed, (name, shown) in enumerate(SHOWN_OF.items()):
        vision = recipe.model_config(recipe.small_size if name == "pretrain" else recipe.large_size).vision
        assert vision is not None
        patches = np.random.default_rng(seed).normal(size=(many, vision.tokens, vision.width))
        np.save(folder / f"{name}.npy", patches.astype(np.float16))
        caches.append((Cache(folder / f"{name}.npy", name), shown))
    return caches


def test_a_step_looks_at_kept_patches_and_at_words(tmp_path: Path) -> None:
    recipe = dataclasses.replace(SMALLEST, looking=0.5, row_noise=0.0)
    caches = kept_in(tmp_path, recipe)
    learner = Looking(recipe, torch.device("cpu"), caches)
    views, batch = learner.made(0), learner.batch(0)
    looks = [one for one in views.conversations if one.scene is None]
    assert 4 < len(looks) < 28 and len(views.conversations) > len(looks) and batch.conversations == views.conversations
    assert [one.picture for one in looks] == list(range(len(looks)))
    assert batch.visual is not None and batch.visual.shape == (len(looks), recipe.queries, recipe.vision_width)
    first = 0
    for cache, shown in caches:  # the rows and labels of the pictures that are asked about, in that order
        pictures, things = views.seen[cache.shown]
        assert pictures.tolist() == sorted(set(pictures.tolist()))
        with torch.no_grad(), autocast(torch.device("cpu")):
            rows = learner.eyes.qformer(cache.some(pictures).float()).float()
        assert torch.equal(rows, batch.visual[first : first + len(pictures)])
        scenes = [training_scene(recipe.seed, cache.shown, 0, at) for at in pictures]
        assert things.counts == tuple(len(scene.things) for scene in scenes)
        assert shown == SHOWN_OF[cache.shown]
        first += len(pictures)
    assert first == len(looks) and batch.figures["beside"] > 0


def test_noise_is_a_function_of_the_step(tmp_path: Path) -> None:
    recipe = dataclasses.replace(SMALLEST, row_noise=0.1)
    caches = kept_in(tmp_path, recipe)
    shaken, still = (
        Looking(one, torch.device("cpu"), caches) for one in (recipe, dataclasses.replace(recipe, row_noise=0.0))
    )
    noisy, again, plain = (learner.batch(0).visual for learner in (shaken, shaken, still))
    assert noisy is not None and again is not None and plain is not None and torch.equal(noisy, again)
    share = 0.1 * shaken.settings.rate(0)
    assert (noisy - plain).std().item() == pytest.approx(share * plain.std().item(), rel=0.05)


def test_all_but_the_tower_learns(tmp_path: Path) -> None:
    """Whatever the naming's weight; with none only the heads stay."""
    for naming in (0.1, 0.0):
        recipe = dataclasses.replace(
            SMALLEST, naming=naming, look=dataclasses.replace(SMALLEST.look, pictures=6, muon_lr=0.01)
        )
        learner = Looking(recipe, torch.device("cpu"), kept_in(tmp_path, recipe))
        before = {name: tensor.clone() for name, tensor in _learnt(learner).items()}
        figures = learner.step(0)
        assert 0 < figures["loss"] < 20 and (figures["beside"] > 0) == (naming > 0) and 0 <= figures["counted"] <= 1
        now = _learnt(learner)
        moved = {name for name in now if not torch.equal(before[name], now[name])}
        assert {"projector.proj1.weight", "text.layers.0.mlp.fc1.weight", "eyes.qformer.query_tokens"} <= moved
        assert ("heads.names.weight" in moved) == (naming > 0)
        assert not any(name.startswith(("eyes.vision.", "eyes.ln_vision.", "heads.cells.")) for name in moved)


def test_a_stopped_look_continues_to_the_bit(tmp_path: Path) -> None:
    recipe = dataclasses.replace(SMALLEST, look=dataclasses.replace(SMALLEST.look, pictures=6, steps=4))
    caches = kept_in(tmp_path, recipe)
    whole, part, again = (Looking(recipe, torch.device("cpu"), caches) for _ in range(3))
    for step in range(3):
        whole.step(step)
    part.step(0)
    again.load_state_dict(part.state_dict())
    for step in (1, 2):
        again.step(step)
    wanted, found = _learnt(whole), _learnt(again)
    assert all(torch.equal(tensor, found[name]) for name, tensor in wanted.items())


def _learnt(learner: Looking) -> dict[str, Tensor]:
    """Every tensor of what learns, and of what must not."""
    assert learner.projector is not None
    parts = {"text": learner.text, "projector": learner.projector, "eyes": learner.eyes, "heads": learner.heads}
    return {f"{part}.{name}": tensor for part, module in parts.items() for name, tensor in module.state_dict().items()}


def test_a_cache_that_is_looked_at_more_often_shows_every_picture_in_turn() -> None:
    large, small = ("multitask", "aimed", 30), ("pretrain", "instruct", 10)
    made = Looked(SMALLEST, (large, large, small, large))
    seen = [made.whose(position) for position in range(40)]
    assert [at for place, at in seen if place != 2] == list(range(30))
    assert [at for place, at in seen if place == 2] == list(range(10))
    assert [place for place, _ in seen[:4]] == [0, 1, 2, 3]


def test_the_exam_sees_by_the_rows_as_they_are() -> None:
    """The Q-Former learns between two exams; the patches of its pictures are kept."""
    recipe = dataclasses.replace(SMALLEST, exam=1)
    learner = Looking(recipe, torch.device("cpu"), [])
    assert learner.projector is not None
    seen: list[Tensor] = []
    learner.projector.register_forward_hook(lambda _module, given, _out: seen.append(given[0].clone()))
    exam = SmallExam(recipe, SHOWN["s4"], learner.eyes, learner.text, learner.projector, recipe.large_size)
    exam.take()
    with torch.no_grad():
        learner.eyes.qformer.query_tokens += 1.0
    exam.take()
    before, after = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert len(before) == len(after) > 0 and not torch.equal(before[0], after[0])
    with torch.no_grad():
        again = Eyes(recipe, recipe.queries)
        again.load_state_dict(learner.eyes.state_dict())
        seen.clear()
        SmallExam(recipe, SHOWN["s4"], again, learner.text, learner.projector, recipe.large_size).take()
    assert torch.equal(seen[0], after[0])
