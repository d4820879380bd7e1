"""A run of the demo recipe that begins with the vision side or the language model of a directory."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tinygptv_fast.checkpoint.directory import open_directory
from tinygptv_fast.data.world_vocabulary import tokenizer_json
from tinygptv_fast.errors import CheckpointError, InvalidArgumentError
from tinygptv_fast.reference.model import TinyGPTVReference
from tinygptv_fast.reference.projector import Projector
from tinygptv_fast.train.demo import command, taking
from tinygptv_fast.train.demo.loop import Session
from tinygptv_fast.train.demo.pictures import Eyes
from tinygptv_fast.train.demo.recipe import PHASES, TINY, DemoRecipe
from tinygptv_fast.train.demo.seeing import Seeing, see
from tinygptv_fast.train.demo.stages import write_directory

SMALLEST = TINY.scaled(0.001)


def session_in(folder: Path, recipe: DemoRecipe = SMALLEST) -> Session:
    return Session(folder, recipe, torch.device("cpu"), Console(stderr=True, quiet=True))


def test_eyes_of_a_directory_are_taken_as_they_are(tmp_path: Path) -> None:
    recipe = dataclasses.replace(SMALLEST, v4=dataclasses.replace(SMALLEST.v4, steps=608))
    session = session_in(tmp_path / "run", recipe)
    torch.manual_seed(4)
    eyes = Eyes(recipe, recipe.first_queries)
    config = recipe.model_config(recipe.large_size, recipe.first_queries)
    state = TinyGPTVReference(config).state_dict() | eyes.state_for(recipe.large_size)
    source = tmp_path / "source"
    session.folder.mkdir()
    write_directory(session, config, state, source)
    records = {"v3": {"steps": 9, "seconds": 60.0, "exam": {}, "recipe": "old"}, "v4": {"seconds": 5.0}}
    log = {"phases": records, "log": [{"phase": "v3", "step": 9, "loss": 1.0}]}
    (source / "training_log.json").write_text(json.dumps(log))
    taking.take_eyes(session, source)
    taken = session.weights("v3")["eyes"]
    assert max((taken[name] - tensor).abs().max().item() for name, tensor in eyes.state_dict().items()) < 1e-5
    hash_of = open_directory(source).content_hash
    assert session.done("v3") == {"steps": 9, "seconds": 65.0, "exam": {}, "taken": hash_of}
    assert json.loads((tmp_path / "run" / "v3" / "log.jsonl").read_text()) == {"step": 9, "loss": 1.0}
    # The heads are new: they learn alone at first, and a run that is stopped then knows it.
    learner = Seeing(recipe, "v4", torch.device("cpu"))
    learner.begin(session.weights("v3"))
    assert learner.alone == 600
    heads = learner.heads.names.weight.clone()
    learner.step(0)
    assert all(torch.equal(taken[name], tensor) for name, tensor in learner.eyes.state_dict().items())
    assert not torch.equal(heads, learner.heads.names.weight)
    again = Seeing(recipe, "v4", torch.device("cpu"))
    again.load_state_dict(learner.state_dict())
    assert again.alone == 600
    learner.step(600)
    assert any(not torch.equal(taken[name], tensor) for name, tensor in learner.eyes.state_dict().items())
    before = session.path("v3", "log.jsonl").read_bytes()
    taking.take_eyes(session, source)  # the same command continues
    assert session.path("v3", "log.jsonl").read_bytes() == before
    write_directory(session, config, TinyGPTVReference(config).state_dict(), tmp_path / "another")
    with pytest.raises(InvalidArgumentError, match="v1a has begun"):
        taking.take_eyes(session, tmp_path / "another")
    other = session_in(tmp_path / "other", dataclasses.replace(recipe, vision_width=64))
    with pytest.raises(InvalidArgumentError, match="its vision is"):
        taking.take_eyes(other, source)


@pytest.mark.parametrize("queries", [16, 20, 32])
def test_eyes_keep_their_queries_until_v5(queries: int, tmp_path: Path) -> None:
    """The recipe's first number, as many as it ships, or any between."""
    session = session_in(tmp_path / "run")
    session.folder.mkdir()
    eyes, config = Eyes(SMALLEST, queries), SMALLEST.model_config(SMALLEST.large_size, queries)
    state = TinyGPTVReference(config).state_dict() | eyes.state_for(SMALLEST.large_size)
    write_directory(session, config, state, tmp_path / "source")
    taking.take_eyes(session, tmp_path / "source")
    see(session, "v4")
    assert len(session.weights("v4")["eyes"]["qformer.query_tokens"]) == queries


def test_more_queries_than_are_shipped_are_an_error(tmp_path: Path) -> None:
    config = SMALLEST.model_config(SMALLEST.large_size, SMALLEST.queries + 1)
    with pytest.raises(InvalidArgumentError, match=r"its qformer is .*queries=33.*expected .*queries=32"):
        taking.check_sizes(SMALLEST, config, tmp_path)


def test_words_of_a_directory_are_taken_as_they_are(tmp_path: Path) -> None:
    session = session_in(tmp_path / "run")
    session.folder.mkdir()
    torch.manual_seed(5)
    config = SMALLEST.model_config(SMALLEST.large_size)
    model = TinyGPTVReference(config)
    source = tmp_path / "source"
    write_directory(session, config, model.state_dict(), source)
    records = {"text": {"steps": 9, "seconds": 60.0, "exam": {}, "recipe": "old"}, "look": {"seconds": 5.0}}
    (source / "training_log.json").write_text(json.dumps({"phases": records, "log": [{"phase": "text", "step": 9}]}))
    taking.take_words(session, source)
    hash_of = open_directory(source).content_hash
    assert session.done("text") == {"steps": 9, "seconds": 65.0, "exam": {}, "taken": hash_of}
    taken = session.weights("text")
    assert all(torch.equal(taken["text"][name], tensor) for name, tensor in model.text.state_dict().items())
    projector = Projector(SMALLEST.vision_width, config.text.width, SMALLEST.projector_hidden)
    projector.load_state_dict(taken["projector"])
    for mine, there in zip(projector.folded(), model.projector.folded(), strict=True):
        assert torch.allclose(mine, there, atol=1e-6)
    taking.take_words(session, source)
    assert len(session.path("text", "log.jsonl").read_text().splitlines()) == 1
    write_directory(session, config, TinyGPTVReference(config).state_dict(), tmp_path / "another")
    with pytest.raises(InvalidArgumentError, match="text has begun"):
        taking.take_words(session, tmp_path / "another")
    with pytest.raises(InvalidArgumentError, match="its text is"):
        taking.take_words(session_in(tmp_path / "other", dataclasses.replace(SMALLEST, text_mlp=64)), source)
    (source / "tokenizer.json").write_text(tokenizer_json().replace('"hexagon"', '"hexagons"'))
    with pytest.raises(InvalidArgumentError, match="its vocabulary is another one"):
        taking.take_words(session_in(tmp_path / "third"), source)
    with pytest.raises(InvalidArgumentError, match="projector_hidden is 31, expected at least 32"):
        taking.factored(torch.zeros(64, 32), torch.zeros(64), 31)


def test_a_model_is_trained_further(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the report's directory of one run into another; stopped on the way, the same command goes on."""
    small = ["--tiny", "--scale", "0.001", "--threads", "1"]
    assert command.main([*small, "--out", str(tmp_path / "first")]) == 0
    source = tmp_path / "first" / "demo"
    options = [*small, "--out", str(tmp_path / "next"), "--further", str(source)]
    assert command.main([*options, "--until", "look"]) == 0
    assert command.main(options) == 0
    log = json.loads((tmp_path / "next" / "demo" / "training_log.json").read_text())
    taken = [phase for phase, record in log["phases"].items() if "taken" in record]
    assert taken == ["v1a", "v1b", "v2", "v3", "text"] and set(log["phases"]) == set(PHASES[:-1])
    assert DemoRecipe.from_dict(log["recipe"]) == TINY.further().scaled(0.001)
    before = json.loads((source / "training_log.json").read_text())
    left_out = sum(before["phases"][phase]["seconds"] for phase in ("asked", "cache64", "cache128"))
    assert log["seconds"] >= before["seconds"] - left_out - 0.1
    assert command.main([*options, "--fresh", "--until", "v4"]) == 0  # what is taken is taken again, not trained
    assert all("taken" in json.loads((tmp_path / "next" / p / "done.json").read_text()) for p in taken[:-1])
    capsys.readouterr()
    assert command.main([*options, "--eyes", str(source)]) == 2
    assert "expected neither --eyes nor --words" in capsys.readouterr().err


def test_a_run_is_continued_by_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a run's folder, behind S4: its heads are taken, too, so there is nothing for V4 and V5 to teach."""
    small = ["--tiny", "--scale", "0.001", "--threads", "1"]
    first, options = tmp_path / "first", [*small, "--out", str(tmp_path / "next"), "--further", str(tmp_path / "first")]
    assert command.main([*small, "--out", str(first), "--until", "s3"]) == 0
    assert command.main(options) == 2
    assert "phase 's4' has not ended" in capsys.readouterr().err
    assert command.main([*small, "--out", str(first), "--until", "s4"]) == 0
    assert command.main([*options, "--until", "v5"]) == 0
    there, here = session_in(first), session_in(tmp_path / "next", TINY.further().scaled(0.001))
    before, taken = there.weights("look"), here.weights("v5")
    assert any(not torch.equal(before["eyes"][name], t) for name, t in there.weights("v5")["eyes"].items())
    assert all(torch.equal(taken["heads"][name], tensor) for name, tensor in before["heads"].items())
    assert all(torch.allclose(taken["eyes"][name], t, atol=1e-5) for name, t in before["eyes"].items())
    words = open_directory(first / "float32").content_hash
    assert {(here.done(phase) or {}).get("taken") for phase in ("v1a", "v3", "v4", "patches", "v5", "text")} == {words}
    assert command.main([*options, "--until", "cache64"]) == 0  # the same command continues
    other = session_in(tmp_path / "other", here.recipe)
    other.folder.mkdir()
    taking.take_eyes(other, first / "float32")
    other.path("v4").mkdir()
    with pytest.raises(InvalidArgumentError, match="v4 has begun"):
        taking.take_run(other, first)


def test_what_a_projector_does_not_need_can_still_learn() -> None:
    torch.manual_seed(6)
    plain = torch.nn.Linear(3, 5)
    projector = Projector(3, 5, 8)
    projector.load_state_dict(taking.factored(plain.weight.detach(), plain.bias.detach(), 8))
    x = torch.randn(7, 3)
    assert torch.allclose(projector(x), plain(x), atol=1e-6)
    projector(x).square().sum().backward()
    gradient = projector.proj2.weight.grad
    assert gradient is not None and (gradient.abs().amax(0) > 0).all()


def test_a_broken_log_of_the_source_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "training_log.json").write_text('{"phases": {}, "log": 3}')
    with pytest.raises(CheckpointError, match="not the log of a training run"):
        taking._history(tmp_path)
