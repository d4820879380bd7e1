"""V5: the Q-Former goes over patches that were kept, each picture in its turn, and nothing else learns."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from tinygptv_fast.errors import CheckpointError, InvalidArgumentError
from tinygptv_fast.train.demo.attending import Attending, Met, attend, labels_kept, widened
from tinygptv_fast.train.demo.cache import Cache, block_patches, fill, open_patches
from tinygptv_fast.train.demo.loop import Paused, Session
from tinygptv_fast.train.demo.pictures import Eyes, labels_of, pixels_of, scenes_of
from tinygptv_fast.train.demo.recipe import KEPT, TINY, DemoRecipe
from tinygptv_fast.train.demo.seeing import Seeing
from tinygptv_fast.train.heads import seeing_loss

CPU = torch.device("cpu")
SMALLEST = TINY.scaled(0.001)
RECIPE = dataclasses.replace(SMALLEST, v5=dataclasses.replace(SMALLEST.v5, steps=6, pictures=8))


def session_in(folder: Path, recipe: DemoRecipe = RECIPE) -> Session:
    """A run whose V4 has ended, with the weights it began with."""
    session = Session(folder, recipe, CPU, Console(stderr=True, quiet=True))
    learner = Seeing(recipe, "v4", CPU)
    session.hand_on("v4", learner.weights())
    session.finish("v4", {"seconds": 0.0})
    return session


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Session:
    session = session_in(tmp_path_factory.mktemp("kept"))
    fill(session, KEPT)
    return session


def test_what_is_kept_is_what_the_tower_says(kept: Session) -> None:
    eyes = Eyes(RECIPE, RECIPE.first_queries).eval()
    eyes.load_state_dict(kept.weights("v4")["eyes"])
    for shown, size, tokens in (("full", 64, 65), ("unnamed", 128, 257)):
        cache = open_patches(kept, shown)
        assert len(cache) == RECIPE.cached(KEPT)[shown] == (32 if shown == "full" else 40)
        some = cache.some(np.array([5, 2]))
        assert some.dtype == torch.float16 and some.shape == (2, tokens, RECIPE.vision_width)
        block = block_patches(eyes, RECIPE, shown, size, 0, 32)
        assert np.array_equal(some.numpy(), block[[5, 2]])


def test_every_picture_is_met_before_any_comes_again() -> None:
    recipe = dataclasses.replace(RECIPE, kept_small=24, kept_large=20)
    met = Met(recipe)
    steps = [met(step) for step in range(40)]
    assert [shown for shown, _ in steps[:4]] == ["unnamed"] * 3 + ["full"]
    for shown, total, many in (("unnamed", 20, 8), ("full", 24, 16)):
        mine = [pictures for name, pictures in steps if name == shown]
        assert {len(pictures) for pictures in mine} == {many}
        order = np.concatenate(mine)
        rounds = [order[at : at + total] for at in range(0, len(order) - total + 1, total)]
        assert len(rounds) > 2 and all(np.array_equal(np.sort(one), np.arange(total)) for one in rounds)
        assert not np.array_equal(rounds[0], rounds[1])
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(steps, map(met, range(40)), strict=True))


def test_a_round_may_be_shorter_than_a_step() -> None:
    met = Met(dataclasses.replace(RECIPE, kept_large=3))
    pictures = met(1)[1]
    assert len(pictures) == 8 and np.bincount(pictures).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


def test_labels_are_those_of_the_pictures() -> None:
    labels = labels_kept(RECIPE, "unnamed")
    assert len(labels.counts) == 40 and not labels.cells
    one = labels.of(torch.tensor([7, 3]))
    drawn = labels_of(scenes_of(RECIPE, "unnamed", 0, [7, 3]), 16)
    assert one.counts == drawn.counts and torch.equal(one.box, drawn.box)
    assert all(torch.equal(one.things[name], drawn.things[name]) for name in drawn.things)
    assert one.ground is not None and drawn.ground is not None and torch.equal(one.ground, drawn.ground)


def test_only_the_q_former_and_its_heads_learn(kept: Session) -> None:
    learner = Attending(RECIPE, CPU, {n: (open_patches(kept, n), labels_kept(RECIPE, n)) for n in ("full", "unnamed")})
    learner.begin(kept.weights("v4"))
    assert learner.alone == 0
    before = {name: p.clone() for part in (learner.eyes, learner.heads) for name, p in part.named_parameters()}
    for step in (1, 3):  # a large one and a small one
        figures = learner.step(step)
        assert 0 < figures["loss"] < 100 and {"counted", "edges", "located"} <= set(figures)
    now = {name: p for part in (learner.eyes, learner.heads) for name, p in part.named_parameters()}
    for name, p in before.items():
        still = name.startswith(("vision.", "ln_vision.", "cells."))
        assert torch.equal(p, now[name]) == still, name


def test_queries_get_twins(kept: Session) -> None:
    """V4's stay as they are and each gets a twin near it; what cannot be shared out evenly goes to the first."""
    queries = torch.randn(4, 32, generator=torch.Generator().manual_seed(3))
    wide = widened(queries, 10, seed=0)
    assert wide.shape == (10, 32) and torch.equal(wide[:4], queries) and len(torch.unique(wide, dim=0)) == 10
    assert (torch.cdist(wide, queries).argmin(1) == torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0, 1])).all()
    assert torch.equal(wide, widened(queries, 10, seed=0)) and widened(queries, 4, seed=0) is queries
    learner = Attending(RECIPE, CPU, {n: (open_patches(kept, n), labels_kept(RECIPE, n)) for n in ("full", "unnamed")})
    before = kept.weights("v4")["eyes"]["qformer.query_tokens"]
    learner.begin(kept.weights("v4"))
    tokens = learner.eyes.qformer.query_tokens
    assert len(before) == RECIPE.first_queries == 16 and tokens.shape == (RECIPE.queries, 32)
    assert torch.equal(tokens[:16], before)
    again = Attending(RECIPE, CPU, learner.kept)
    again.load_state_dict(learner.state_dict())
    assert torch.equal(again.eyes.qformer.query_tokens, tokens)


def test_exact_twins_change_nothing_that_was_there(kept: Session) -> None:
    """Every key is there twice, so its weight is."""
    eyes = Eyes(RECIPE, RECIPE.first_queries)
    eyes.load_state_dict(kept.weights("v4")["eyes"])
    patches = torch.randn(3, 65, RECIPE.vision_width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        rows = eyes.qformer(patches)
        tokens = eyes.qformer.query_tokens
        eyes.qformer.query_tokens = torch.nn.Parameter(torch.cat([tokens, tokens]))
        twice = eyes.qformer(patches)
    assert torch.allclose(twice, torch.cat([rows, rows], 1), atol=1e-5)


def test_the_loss_is_that_of_the_pictures_themselves(kept: Session) -> None:
    """A step from kept patches has the loss of one through the tower, but for float16 and what cells are asked."""
    learner = Attending(RECIPE, CPU, {n: (open_patches(kept, n), labels_kept(RECIPE, n)) for n in ("full", "unnamed")})
    learner.begin(kept.weights("v4"))
    shown, pictures = learner.made(0)
    scenes = scenes_of(RECIPE, shown, 0, range(32))
    with torch.no_grad():
        rows = learner.eyes(pixels_of(RECIPE, scenes, 128, 4, 128, 0))[torch.from_numpy(pictures)]
        labels = learner.kept[shown][1].of(torch.from_numpy(pictures))
        whole = seeing_loss(learner.heads, None, rows, labels)
    assert learner.step(0)["loss"] == pytest.approx(whole.total.item(), rel=0.02)  # the phase computes in bfloat16


def test_a_stopped_phase_continues_to_the_bit(kept: Session, tmp_path: Path) -> None:
    results = []
    for name, stops in (("whole", 0), ("parts", 3)):
        session = session_in(tmp_path / name)
        fill(session, KEPT)
        session.deadline = 0.0
        for _ in range(stops):
            with pytest.raises(Paused):
                attend(session)
        session.deadline = None
        attend(session)
        results.append(session.weights("v5"))
    for part in ("eyes", "heads"):
        assert all(torch.equal(results[0][part][name], results[1][part][name]) for name in results[0][part])
    assert any(not torch.equal(results[0]["eyes"][name], tensor) for name, tensor in kept.weights("v4")["eyes"].items())


def test_the_phase_needs_what_is_kept(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="phase 'patches' has not ended"):
        attend(session_in(tmp_path / "run"))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="space is claimed where the system can")
def test_a_full_disk_is_one_error_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, size: int) -> None:
        assert size > 2 * 32 * 65 * RECIPE.vision_width  # the array and its header
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    session = session_in(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(CheckpointError, match=r"cannot keep 0\.00 GB in .*full\.npy: No space left"):
            fill(session, KEPT)
    assert not list(session.path(KEPT).glob("*.npy")) and session.done(KEPT) is None
    fill(session, KEPT)  # once there is room
    assert session.done(KEPT) is not None


def test_a_file_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "unnamed.npy").write_bytes(b"no array")
    with pytest.raises(CheckpointError, match="not a file of rows or patches"):
        Cache(tmp_path / "unnamed.npy", "unnamed")
