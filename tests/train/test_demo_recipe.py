"""The next demo model's pipeline: every phase runs and hands on, stops and continues to the bit, and counts right."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from tinygptv_fast.checkpoint.directory import open_directory
from tinygptv_fast.conversion import load_state
from tinygptv_fast.data.question import Question
from tinygptv_fast.data.world.asking import KINDS
from tinygptv_fast.data.world.sampler import training, training_scene
from tinygptv_fast.data.world_vocabulary import END_OF_TEXT, VOCAB_SIZE, tokenizer_json
from tinygptv_fast.errors import InvalidArgumentError
from tinygptv_fast.processing.tokenizer import Tokenizer
from tinygptv_fast.reference.loss import IGNORE
from tinygptv_fast.train.coordinates import blurred_cross_entropy
from tinygptv_fast.train.demo import command
from tinygptv_fast.train.demo.cache import Cache, block_patches, block_rows
from tinygptv_fast.train.demo.loop import Paused, Session, run_phase
from tinygptv_fast.train.demo.pictures import Eyes, labels_of, pixels_of, scenes_of
from tinygptv_fast.train.demo.recipe import PHASES, TINY, DemoRecipe, first_use
from tinygptv_fast.train.demo.report import FAMILIES, MORE, box_overlap, paired, questions_per_kind, score, share
from tinygptv_fast.train.demo.rows import Conversation, RowWriter
from tinygptv_fast.train.demo.seeing import Seeing, see
from tinygptv_fast.train.saving import load_state_file

SMALLEST = TINY.scaled(0.001)
CHANGED = ("counting", "names and boxes", "telling")  # rounding changes two or three answers in a hundred there


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_string(tokenizer_json())


def session_in(folder: Path, recipe: DemoRecipe = SMALLEST) -> Session:
    return Session(folder, recipe, torch.device("cpu"), Console(stderr=True, quiet=True))


# --- the whole --------------------------------------------------------------------------------------------------------
def test_every_phase_runs_and_the_model_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.process_time()
    out = tmp_path / "run"
    options = ["--tiny", "--scale", "0.001", "--out", str(out), "--threads", "1"]
    assert command.main(options) == 0
    assert all((out / phase / "done.json").is_file() for phase in PHASES)
    directory = open_directory(out / "demo")
    assert (directory.config.quantization.text, directory.config.quantization.vision) == ("int4", "int8")
    assert directory.config.vision is not None and directory.config.vision.image_size == 128
    before = load_state(open_directory(out / "float32"))
    finished = load_state_file(out / "finish" / "weights.pt")["model"]
    still = [name for name in before if torch.equal(before[name].float(), finished[name])]
    assert {n for n in before if n.startswith(("vision.", "qformer.", "ln_vision."))} <= set(still)
    assert "text.layers.0.mlp.fc1.weight" not in still  # "finish" learns the language model
    first, looked = load_state(open_directory(out / "base64")), load_state_file(out / "look" / "weights.pt")
    for part in ("text", "projector"):  # the stages begin with what has looked
        assert all(torch.equal(first[f"{part}.{name}"], tensor) for name, tensor in looked[part].items())
    figures = json.loads((out / "report" / "report.json").read_text())
    assert set(figures["int4"]["families"]) == set(FAMILIES)
    assert {"float32", "grey picture", "other picture", "held-out pairs", "agreement", "bytes"} <= set(figures)
    compared, families = figures[MORE]["families"], figures["int4"]["families"]
    assert set(compared) == set(FAMILIES)  # more questions than the exam has, most where rounding changes most answers
    assert all(one["asked"] == 3 * families[name]["asked"] for name, one in compared.items() if name not in CHANGED)
    assert all(compared[name]["asked"] == 9 * families[name]["asked"] for name in CHANGED)
    assert directory.quality.agreement is not None
    log = json.loads((out / "demo" / "training_log.json").read_text())
    assert (
        set(log["phases"]) == set(PHASES[:-1])
        and log["seconds"] > 0
        and log["figures"]["agreement"] == figures["agreement"]
    )
    assert DemoRecipe.from_dict(log["recipe"]) == SMALLEST and {line["phase"] for line in log["log"]} >= {"v4", "s4"}
    exams = [json.loads(line) for line in (out / "text" / "log.jsonl").read_text().splitlines()]
    assert exams[-1]["step"] == 3 and "mean" in exams[-1]["exam"]
    assert command.main(options) == 0  # nothing is done twice
    assert capsys.readouterr().err.count("done already") == len(PHASES)
    assert command.main([*options, "--seed", "1"]) == 2
    assert "other settings (seed)" in capsys.readouterr().err
    assert time.process_time() - began < 60


@pytest.mark.parametrize("arguments", [["--minutes", "0"], ["--threads", "0"], ["--scale", "2"], ["--phase", "text"]])
def test_bad_arguments_exit_2(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--out", str(tmp_path / "run"), "--tiny", *arguments]) == 2
    assert "error: " in capsys.readouterr().err


def test_recipe_round_trip_and_sizes() -> None:
    recipe = DemoRecipe(seed=3)
    assert DemoRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert all(recipe.digest_of(phase) != DemoRecipe().digest_of(phase) for phase in PHASES)
    gpu = recipe.on_gpu()
    assert gpu.v1b.steps * gpu.v1b.pictures == recipe.v1b.steps * recipe.v1b.pictures
    with pytest.raises(InvalidArgumentError, match="looking is 2"):
        DemoRecipe(looking=2.0)


def test_a_phase_depends_on_no_later_one() -> None:
    plain = DemoRecipe()
    other = dataclasses.replace(plain, look=dataclasses.replace(plain.look, steps=7), multitask=5, row_noise=0.5)
    changed = [phase for phase in PHASES if plain.digest_of(phase) != other.digest_of(phase)]
    assert changed == list(PHASES[PHASES.index("asked") :])
    assert {first_use(name) for name in plain.to_dict()} <= set(PHASES)
    assert set(plain.settings_of("report")) == set(plain.to_dict())
    with pytest.raises(InvalidArgumentError, match="phase is 'v9'"):
        plain.digest_of("v9")


def test_settings_of_what_has_not_begun_may_change(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command.check_folder(folder, SMALLEST)
    (folder / "asked").mkdir()
    later = dataclasses.replace(SMALLEST, looking=0.5)
    command.check_folder(folder, later)
    assert DemoRecipe.from_dict(json.loads((folder / "recipe.json").read_text())) == later
    with pytest.raises(InvalidArgumentError, match=r"other settings \(pretrain\)"):
        command.check_folder(folder, dataclasses.replace(later, pretrain=40))


# --- stopping ---------------------------------------------------------------------------------------------------------
def test_a_stopped_phase_continues_to_the_bit(tmp_path: Path) -> None:
    recipe = dataclasses.replace(SMALLEST, v1a=dataclasses.replace(SMALLEST.v1a, steps=5))
    whole = session_in(tmp_path / "whole", recipe)
    see(whole, "v1a")
    parts = session_in(tmp_path / "parts", recipe)
    parts.deadline = 0.0  # over before it begins: one step is done, then it stops
    for _ in range(4):
        with pytest.raises(Paused):
            see(parts, "v1a")
    parts.deadline = None
    see(parts, "v1a")
    first, second = whole.weights("v1a")["eyes"], parts.weights("v1a")["eyes"]
    assert all(torch.equal(first[name], second[name]) for name in first)
    steps = [json.loads(line)["step"] for line in (tmp_path / "parts" / "v1a" / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 5


def test_a_killed_phase_goes_on_from_its_last_save(tmp_path: Path) -> None:
    recipe = dataclasses.replace(SMALLEST, v1a=dataclasses.replace(SMALLEST.v1a, steps=4))

    class Killed(Exception):
        """Stands for kill -9: nothing is saved on the way out."""

    class Mortal(Seeing):
        def step(self, step: int) -> dict[str, float]:
            if step == 2 and not (tmp_path / "died").exists():
                (tmp_path / "died").touch()
                raise Killed
            return super().step(step)

    sessions = [session_in(tmp_path / name, recipe) for name in ("whole", "killed")]
    see(sessions[0], "v1a")
    for _ in range(2):
        learner = Mortal(recipe, "v1a", torch.device("cpu"))
        try:
            run_phase(sessions[1], "v1a", learner, 4, (), learner.weights)
        except Killed:
            continue
    first, second = (session.weights("v1a")["heads"] for session in sessions)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_start_is_refused(tmp_path: Path) -> None:
    session = session_in(tmp_path)
    session.deadline = 0.0
    with pytest.raises(Paused):
        see(session, "v1a")
    other = dataclasses.replace(SMALLEST, seed=9)
    with pytest.raises(InvalidArgumentError, match="belongs to another run: start was"):
        see(session_in(tmp_path, other), "v1a")


# --- data -------------------------------------------------------------------------------------------------------------
def test_what_is_kept_is_a_function_of_the_picture(tmp_path: Path) -> None:
    torch.manual_seed(0)
    eyes = Eyes(SMALLEST).eval()
    for size in (64, 128):
        first = block_patches(eyes, SMALLEST, "pretrain", size, 64, 4)
        block_patches(eyes, SMALLEST, "pretrain", size, 0, 8)
        again = block_patches(eyes, SMALLEST, "pretrain", size, 64, 4)
        assert first.dtype == np.float16 and first.shape == (4, (size // 8) ** 2 + 1, SMALLEST.vision_width)
        assert np.array_equal(first, again)
        assert not np.array_equal(first, block_patches(eyes, SMALLEST, "pretrain", size, 68, 4))
        np.save(tmp_path / "pretrain.npy", np.concatenate([first, again]))
        kept = Cache(tmp_path / "pretrain.npy", "pretrain")
        rows = block_rows(eyes, kept, 0, 4)
        assert rows.dtype == np.float16 and rows.shape == (4, SMALLEST.queries, SMALLEST.vision_width)
        assert np.array_equal(rows, block_rows(eyes, kept, 4, 4))
        with torch.no_grad():  # half a unit in the last place of float16, where rows reach 4 and patches likewise
            whole = eyes(pixels_of(SMALLEST, scenes_of(SMALLEST, "pretrain", 0, range(64, 68)), size, 4, size, 64))
        assert np.abs(rows - whole.numpy()).max() < 0.02


def test_a_picture_is_the_one_that_is_asked_about() -> None:
    assert training_scene(0, "multitask", 3, 1) == training(0, "multitask", 3, 1).scene


def test_letters_of_a_word_are_labels() -> None:
    scenes = [training_scene(0, "words", 0, index) for index in range(12)]
    labels = labels_of(scenes, 16)
    for index, scene in enumerate(scenes):
        for at, thing in enumerate(scene.things):
            letters = [int(labels.things[f"letter{k}"][index, at]) for k in range(6)]
            if thing.is_text:
                alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
                assert "".join(alphabet[i] for i in letters if i < 36) == thing.text
            else:
                assert letters == [IGNORE] * 6


def test_vocabulary(tokenizer: Tokenizer) -> None:
    assert tokenizer.size <= VOCAB_SIZE
    for text in ("###", END_OF_TEXT, "0", "57", "100", "{<", "><", "[INST]", " [vqa]"):
        assert len(tokenizer.encode(text)) == 1
    assert len(tokenizer.encode(" garden")) > 1  # drawn words stay spelled


def test_rows_put_a_scene_where_a_picture_would_be(tokenizer: Tokenizer) -> None:
    writer = RowWriter(tokenizer, 16)
    question = Question("refer", "refer", "the red star", "{<5><10><40><60>}")
    (text,) = writer.write([Conversation((question, question), (True, True), "red star {<5><10><40><60>}")])
    whole = "[INST] <Img>red star {<5><10><40><60>}</Img> [refer] the red star  [/INST]{<5><10><40><60>}"
    assert tokenizer.decode(text.ids[0].tolist()).startswith(whole)
    assert [tokenizer.decode([i]) for i in text.labels[0][text.coordinate[0]].tolist()] == ["5", "10", "40", "60"] * 2
    assert int((text.labels == writer.end).sum()) == 2
    (seen,) = writer.write([Conversation((question,), (True,), None, 0)])
    assert int(seen.slots.sum()) == 16 and seen.pictures.tolist() == [0]
    learnt = seen.labels != IGNORE
    assert tokenizer.decode(seen.labels[learnt].tolist()[:-1]) == question.answer
    assert seen.weight[learnt].tolist() == pytest.approx([float(learnt.sum()) ** -0.5] * int(learnt.sum()))


def test_blurred_labels_forgive_neighbours() -> None:
    numbers = torch.arange(10, 111)
    labels, coordinate = torch.tensor([60, 60]), torch.tensor([True, False])
    near, far = torch.zeros(2, 120), torch.zeros(2, 120)
    near[:, 61], far[:, 90] = 5.0, 5.0
    close = blurred_cross_entropy(near, labels, coordinate, numbers, 1.0)
    away = blurred_cross_entropy(far, labels, coordinate, numbers, 1.0)
    assert close[0] < away[0] and close[1].item() == pytest.approx(away[1].item())
    logits = torch.randn(2, 120, generator=torch.Generator().manual_seed(0))
    sharp, plain = (blurred_cross_entropy(logits, labels, coordinate, numbers, sigma) for sigma in (1e-2, 0.0))
    assert torch.allclose(sharp, plain)


# --- the report -------------------------------------------------------------------------------------------------------
def test_questions_of_the_report() -> None:
    counts = questions_per_kind(4000)
    assert set(counts) == set(KINDS)
    assert all(400 <= sum(counts[kind] for kind in kinds) <= 402 for kinds in FAMILIES.values())


def test_share_and_paired() -> None:
    assert share(95, 100) == {"asked": 100, "right": 95, "share": 0.95, "interval": [0.8882, 0.9785]}
    figures = paired([True, True, False, False], [True, False, True, True])
    assert (figures["won"], figures["lost"], figures["points"]) == (2, 1, 25.0)
    same = paired([True] * 9, [True] * 9)
    assert same["interval"] == [0.0, 0.0]


def test_score_counts_families_and_false_refusals() -> None:
    colour = Question("colour", "vqa", "What colour is the star?", "red")
    absent = Question("absent", "vqa", "What colour is the cross?", "there is no cross", refusal=True)
    figures = score([(colour, "red"), (colour, "there is no star"), (absent, "there is no cross"), (absent, "red")])
    assert figures["families"]["attributes"]["share"] == 0.5 and figures["families"]["absent"]["right"] == 1
    assert figures["false refusals"]["right"] == 1 and figures["false refusals"]["asked"] == 2
    assert figures["all"]["right"] == 2


def test_box_overlap() -> None:
    refer = Question("refer", "refer", "the star", "{<0><0><50><50>}")
    boxes = ["{<0><0><40><40>}", "{<0><0><40><40>}", "none"]
    others = ["{<0><0><40><40>}", "{<0><0><40><20>}", "{<0><0><40><40>}"]
    assert box_overlap([refer] * 3, boxes, others) == {"boxes": 3, "mean_iou": 0.5}
    assert box_overlap([refer], ["none"], ["none"])["mean_iou"] is None
