"""What ``tinygptv finetune`` teaches the demo model from 200 examples, how long it takes, and what is forgotten.

    python benchmarks/finetune_world.py --out DIR                        # all three lessons
    python benchmarks/finetune_world.py --out DIR --lessons name --steps 300 --lr 1e-3

Three lessons, each with its own pictures, 200 records for teaching and others for the examination:

    name     red stars are called "blick", in questions and in answers
    wording  known questions in words that no training question has
    shape    a shape that was never drawn, the bolt; taught with --unfreeze qformer

Each is taught by the command a user would type, with replay from the world, and examined through the public facade at
int4, as merged: the lesson's own questions, and the world's exam for what is forgotten, both against the untouched
model on the same questions. Wanted: name and wording >= 90 % within 600 seconds, at most 2 points lost elsewhere; the
shape is reported.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tinygptv_fast import TinyGPTV, _native
from tinygptv_fast.bench.runner import git_hash
from tinygptv_fast.data.outlines import OUTLINES, fit
from tinygptv_fast.data.question import Question
from tinygptv_fast.data.randomness import generator, pick
from tinygptv_fast.data.world.asking import KINDS, SEEN, ask
from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.sampler import STAGES, questions_about
from tinygptv_fast.data.world.sampling import FULL, TEXT, random_scene
from tinygptv_fast.data.world.scene import Scene
from tinygptv_fast.data.world.scoring import is_right
from tinygptv_fast.train.demo.report import make_exam, paired, share

SIDE = 256  # pixels of the longer side of a picture
SEED = 9_500_001
TEACH, EXAMINE, REPLAY = 0, 1, 2  # streams: no picture is in two of them
A_PICTURE = 3  # questions of the replay
NAME, MEANING = "blick", "red star"
SHAPE, REPLACED = "bolt", "diamond"
OUTLINES[SHAPE] = fit([(0.5, 0), (1, 0), (0.64, 0.4), (0.96, 0.4), (0.2, 1), (0.4, 0.55), (0.04, 0.55)])

#: Kind → a wording that shares no more than small words with those of training.
WORDINGS = {
    "colour": "Hue of the {thing}, please.",
    "exist": "Any chance of spotting {a_thing}?",
    "count": "Tally up: {things}.",
    "shape": "Whatever form has the {look} one?",
}


@dataclass(frozen=True)
class Posed:
    """One question about one picture."""

    scene: Scene
    question: Question


# --- the lessons ------------------------------------------------------------------------------------------------------
def name_lesson(rng: np.random.Generator) -> Posed | None:
    """A question of the world that speaks of a red star, with the star's new name."""
    kind = pick(rng, ("exist", "refer", "size", "texture", "position", "relation", "count", "identify"))
    scene = random_scene(rng, FULL)
    question = ask(rng, scene, kind)
    if question is None or f" {MEANING}" not in f" {question.prompt} {question.answer}".replace("stars", "star"):
        return None
    return Posed(scene, _replaced(question, MEANING, NAME))


def _replaced(question: Question, old: str, new: str) -> Question:
    return replace(question, prompt=question.prompt.replace(old, new), answer=question.answer.replace(old, new))


def wording_lesson(rng: np.random.Generator) -> Posed | None:
    """A question of the world put in a wording of ``WORDINGS``."""
    kind = pick(rng, tuple(WORDINGS))
    scene = random_scene(rng, FULL)
    found = [c for c in KINDS[kind].candidates(scene) if SEEN.admits(c)]
    groups = sorted({c.group for c in found})
    if not groups:
        return None
    group = pick(rng, groups)
    chosen = pick(rng, [c for c in found if c.group == group])
    return Posed(scene, Question(kind, "vqa", WORDINGS[kind].format(**chosen.slots), chosen.answer))


def shape_lesson(rng: np.random.Generator) -> Posed | None:
    """A question about a scene whose diamonds have become bolts, that speaks of one."""
    kind = pick(rng, ("exist", "refer", "shape", "colour", "count", "identify", "caption"))
    scene = random_scene(rng, FULL)
    scene = replace(scene, things=tuple(replace(t, shape=SHAPE) if t.shape == REPLACED else t for t in scene.things))
    question = ask(rng, scene, kind)
    if question is None or SHAPE not in f"{question.prompt} {question.answer}":
        return None
    return Posed(scene, question)


LESSONS: dict[str, Callable[[np.random.Generator], Posed | None]] = {
    "name": name_lesson,
    "wording": wording_lesson,
    "shape": shape_lesson,
}


def posed(lesson: str, stream: int, count: int) -> list[Posed]:
    """``count`` questions of a lesson; yes and no, and the kinds, as often as the lesson draws them."""
    found: list[Posed] = []
    for index in itertools.count():
        if len(found) == count:
            return found
        one = LESSONS[lesson](generator(SEED, stream, tuple(LESSONS).index(lesson), index))
        if one is not None:
            found.append(one)
    raise AssertionError


def replayed(count: int) -> list[Posed]:
    """Questions of the world as its last stage asks them, ``A_PICTURE`` of each: what the frozen vision side says of a
    picture is computed once, and took half the time with as many pictures as questions."""
    found: list[Posed] = []
    for index in itertools.count():
        if len(found) >= count:
            return found[:count]
        rng = generator(SEED, REPLAY, index)
        scene = random_scene(rng, pick(rng, (FULL, FULL, TEXT)))
        questions = questions_about(rng, scene, replace(STAGES["multitask"], questions=A_PICTURE))
        found += [Posed(scene, q) for q in questions if not q.history]
    raise AssertionError


def write(folder: Path, name: str, items: Sequence[Posed]) -> Path:
    """``NAME.json`` in the VQA form and its pictures; questions in a row about one scene share its picture."""
    pictures = folder / name
    pictures.mkdir(parents=True)
    records: list[dict[str, Any]] = []
    shown: Scene | None = None
    for index, item in enumerate(items):
        if item.scene is not shown:
            shown, image = item.scene, f"{name}/{index:05}.png"
            draw(item.scene, SIDE).save(folder / image)
        records.append(
            {
                "image": image,
                "question": item.question.prompt,
                "answer": item.question.answer,
                "task": item.question.task,
            }
        )
    path = folder / f"{name}.json"
    path.write_text(json.dumps(records, indent=1), encoding="utf-8")
    return path


# --- teaching and examining -------------------------------------------------------------------------------------------
def teach(lesson: str, arguments: argparse.Namespace) -> float:
    """Run the command; seconds. Raises CalledProcessError."""
    folder = arguments.out / lesson
    data = write(folder, "new", posed(lesson, TEACH, arguments.examples))
    old = write(folder, "old", replayed(arguments.replay))
    command = [sys.executable, "-c", "from tinygptv_fast.cli import main; raise SystemExit(main())"]
    command += ["finetune", str(data), "--model", str(arguments.model)]
    command += ["--out", str(folder / "run"), "--merge", str(folder / "merged"), "--quiet"]
    command += ["--replay", str(old), "--replay-ratio", str(arguments.replay_ratio)]
    for option in ("steps", "lr", "batch_size"):
        if getattr(arguments, option) is not None:
            command += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
    command += ["--unfreeze", "qformer"] if lesson == "shape" else ["--features", str(folder / "features")]
    began = time.monotonic()
    subprocess.run(command, check=True)
    return time.monotonic() - began


def answers(model: str, items: Sequence[Posed]) -> list[str]:
    """Greedy answers through the facade."""
    out: list[str] = []
    with TinyGPTV.from_pretrained(model) as opened:
        for start in range(0, len(items), 32):
            requests = []
            for item in items[start : start + 32]:
                messages = item.question.messages()
                messages[0]["content"][0]["image"] = draw(item.scene, SIDE)
                requests.append({"messages": messages})
            for one in opened.generate_batch(requests):
                if isinstance(one, Exception):
                    raise one
                out.append(one.text)
    return out


def marks(items: Sequence[Posed], given: Sequence[str]) -> list[bool]:
    return [is_right(item.question, answer) for item, answer in zip(items, given, strict=True)]


def by_kind(items: Sequence[Posed], right: Sequence[bool]) -> dict[str, Any]:
    kinds: dict[str, list[bool]] = {}
    for item, mark in zip(items, right, strict=True):
        kinds.setdefault(item.question.kind, []).append(mark)
    return {kind: share(sum(found), len(found)) for kind, found in sorted(kinds.items())}


def run(lesson: str, arguments: argparse.Namespace, elsewhere: Sequence[Posed], before: list[bool]) -> dict[str, Any]:
    """All figures of one lesson."""
    shutil.rmtree(arguments.out / lesson, ignore_errors=True)
    seconds = teach(lesson, arguments)
    merged = str(arguments.out / lesson / "merged")
    items = posed(lesson, EXAMINE, arguments.questions)
    untouched, taught = (marks(items, answers(model, items)) for model in (str(arguments.model), merged))
    after = marks(elsewhere, answers(merged, elsewhere))
    return {
        "lesson": lesson, "seconds": round(seconds, 1), "examples": arguments.examples,
        "before": share(sum(untouched), len(items)), "after": share(sum(taught), len(items)),
        "kinds": by_kind(items, taught), "elsewhere": paired(before, after),
        "settings": {"steps": arguments.steps, "lr": arguments.lr, "replay": arguments.replay,
                     "replay_ratio": arguments.replay_ratio, "replay_a_picture": A_PICTURE},
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where data, runs and merged models go")
    parser.add_argument("--model", default="demo", help="model directory (default: the shipped demo)")
    parser.add_argument("--lessons", nargs="+", choices=tuple(LESSONS), default=list(LESSONS))
    parser.add_argument("--examples", type=int, default=200, help="records that teach (default 200)")
    parser.add_argument("--replay", type=int, default=6000, help="records of what is known (default 6,000)")
    parser.add_argument("--replay-ratio", type=float, default=0.75, help="their share of each batch (default 0.75)")
    parser.add_argument("--questions", type=int, default=400, help="of the lesson's exam (default 400)")
    parser.add_argument("--elsewhere", type=int, default=2000, help="of the world's exam (default 2,000)")
    parser.add_argument("--steps", type=int, default=1200, help="as of the command (default 1,200)")
    parser.add_argument("--lr", type=float, default=2.5e-3, help="as of the command (default 0.0025)")
    parser.add_argument("--batch-size", type=int, help="as of the command")
    parser.add_argument("--json", type=Path, help="append a line per lesson to this file")
    arguments = parser.parse_args()
    elsewhere = [Posed(item.scene, item.question) for item in make_exam(arguments.elsewhere)]
    before = marks(elsewhere, answers(str(arguments.model), elsewhere))
    print(f"untouched model: {sum(before)} of {len(before)} in the world's exam")
    for lesson in arguments.lessons:
        line = run(lesson, arguments, elsewhere, before)
        print(json.dumps(line, indent=1))
        if arguments.json is not None:
            head = {"benchmark": "finetune_world", "git": git_hash(), "cpu": _native.cpu_brand()}
            with arguments.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**head, **line}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
