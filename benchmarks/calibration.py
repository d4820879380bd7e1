"""Whether confidence means what it says: fits a calibration on drawn questions, examines it on 2,000 others.

    python benchmarks/calibration.py [--model demo] [--fit 2000] [--test 2000] [--plot curve.png] [--save] [--write]

Prints a table and one JSON line: expected calibration error in 15 bins, Brier score, log-likelihood and the chance that
a right answer is stated above a wrong one, of the raw probability and of the confidence; the same of choices; and by
family the share that is right beside the mean of what was stated. Questions are those of the demo's examinations, from
seeds of their own; no picture of the fit is in the test. ``--write`` puts the calibration into the model's directory.
Answers are kept in ``--work``: a run that was stopped goes on. Exit code 1 when the error of the confidence is > 0.05.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantize_common import append
from tinygptv_fast.cli.models import local_directory
from tinygptv_fast.data.world.asking import KINDS
from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.sampler import ExamItem
from tinygptv_fast.data.world.scoring import is_right
from tinygptv_fast.diagnosis.answering import Given, answer_examples
from tinygptv_fast.diagnosis.calibrating import calibrate, first_choices, judged
from tinygptv_fast.diagnosis.reliability import reliability
from tinygptv_fast.generate import TinyGPTV
from tinygptv_fast.generate.confidence import Calibration, write_calibration
from tinygptv_fast.train.demo.report import FAMILIES, make_exam
from tinygptv_fast.train.stages.examples import Example, Turn

FIT_SEED, TEST_SEED = 9_700_001, 9_800_001  # of no other examination, and of no training
SIDE = 256  # pixels of the longer side of a picture
LIMIT = 0.05


def example(item: ExamItem) -> Example:
    """An examination's question, with choices where its kind has few answers; the picture is drawn when asked for."""
    question = item.question
    turns = [Turn(f"[{turn.task}] {turn.prompt}", turn.answer) for turn in question.history]
    turns.append(Turn(f"[{question.task}] {question.prompt}", question.answer))
    groups = KINDS[question.kind].groups
    choices = tuple(groups) if question.answer in groups else ()
    picture = functools.partial(_picture, item)
    return Example(tuple(turns), (picture,), None, f"scene {item.scene_seed}", choices)


def _picture(item: ExamItem) -> Any:
    return draw(item.scene, SIDE)


def answered(model: TinyGPTV, name: str, items: Sequence[ExamItem], seed: int, work: Path) -> list[Given]:
    """What the model says to every item; kept in ``work``."""

    def report(done: int, total: int) -> None:
        print(f"\r{name}: {done} of {total}", end="" if done < total else "\n", file=sys.stderr, flush=True)

    path = work / f"{model.info['model_id'][:12]}-{name}-{len(items)}.jsonl"
    examples = [example(item) for item in items]
    return answer_examples(model, examples, f"world {seed} {len(items)}", {}, path, report)


def examine(calibration: Calibration, items: Sequence[ExamItem], given: Sequence[Given]) -> dict[str, Any]:
    """The figures of ``calibration`` on answers it was not fitted on."""
    whole = [(item, one) for item, one in zip(items, given, strict=True) if one.reason == "stop"]
    examples, said = [example(item) for item, _ in whole], [one for _, one in whole]
    right = judged(examples, said)
    raw = [min(one.probability, 1.0) for one in said]
    stated = [calibration.answers(one.evidence) for one in said]
    out: dict[str, Any] = {
        "cut_short": len(given) - len(whole),
        "judged_otherwise_by_the_world": sum(
            is_right(item.question, one.text) != mark for (item, one), mark in zip(whole, right, strict=True)
        ),
        "raw": reliability(raw, right).to_dict(),
        "confidence": reliability(stated, right).to_dict(),
        "families": _families([item.question.kind for item, _ in whole], right, raw, stated),
    }
    if calibration.temperature is not None:
        some = [(one, answer) for one, answer in zip(examples, said, strict=True) if answer.means]
        out["raw_choices"] = first_choices(some).to_dict()
        out["choices"] = first_choices(some, calibration.temperature).to_dict()
    return out


def _families(
    kinds: Sequence[str], right: Sequence[bool], raw: Sequence[float], stated: Sequence[float]
) -> dict[str, dict[str, float]]:
    """Family → how many answers, the share that is right, the means of the raw and of the calibrated figure."""
    out = {}
    for family, members in FAMILIES.items():
        mine = [at for at, kind in enumerate(kinds) if kind in members]
        if mine:
            means = (sum(column[at] for at in mine) / len(mine) for column in (right, raw, stated))
            names = ("right", "probability", "confidence")
            out[family] = {"count": len(mine)} | {n: round(v, 4) for n, v in zip(names, means, strict=True)}
    return out


def show(figures: Mapping[str, Any]) -> None:
    """Print the table."""
    print(f"{'':<22} {'answers':>8} {'right':>7} {'error':>8} {'Brier':>8} {'nll':>8} {'auc':>7}")
    for name in ("raw", "confidence", "raw_choices", "choices"):
        if name in figures:
            one = figures[name]
            print(
                f"{name.replace('_', ' '):<22} {one['count']:>8} {one['right']:>7.3f} {one['ece']:>8.4f} "
                f"{one['brier']:>8.4f} {one['nll']:>8.4f} {one['auc']:>7.4f}"
            )
    print(f"\n{'confidence':<22} {'answers':>8} {'stated':>8} {'right':>8}")
    for row in figures["confidence"]["curve"]:
        print(f"{row['low']:.3f} .. {row['high']:<12.3f} {row['count']:>8} {row['stated']:>8.3f} {row['right']:>8.3f}")
    print(f"\n{'family':<22} {'answers':>8} {'right':>8} {'raw':>8} {'confidence':>11}")
    for name, row in figures["families"].items():
        print(
            f"{name:<22} {row['count']:>8} {row['right']:>8.3f} {row['probability']:>8.3f} {row['confidence']:>11.3f}"
        )


def plot(figures: Mapping[str, Any], path: Path) -> None:
    """Draw both reliability curves."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 5))
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, label in (("raw", "probability"), ("confidence", "confidence")):
        curve = figures[name]["curve"]
        axes.plot([row["stated"] for row in curve], [row["right"] for row in curve], marker="o", label=label)
    axes.set(xlabel="stated", ylabel="share right", xlim=(0, 1), ylim=(0, 1))
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="'demo' or a directory of a model of the drawn world")
    parser.add_argument("--fit", type=int, default=2000, help="questions to fit on")
    parser.add_argument("--test", type=int, default=2000, help="questions to examine on")
    parser.add_argument("--work", type=Path, default=Path("out/calibration"), help="where answers are kept")
    parser.add_argument("--plot", type=Path, help="draw the reliability curves (.png, .svg)")
    parser.add_argument("--write", action="store_true", help="write calibration.json into the model's directory")
    parser.add_argument("--save", action="store_true", help="append the line to benchmarks/results/calibration.jsonl")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if min(arguments.fit, arguments.test) < 1:
        parser.error("--fit and --test must be positive")
    arguments.work.mkdir(parents=True, exist_ok=True)

    fit_items, test_items = make_exam(arguments.fit, seed=FIT_SEED), make_exam(arguments.test, seed=TEST_SEED)
    if {item.scene_seed for item in fit_items} & {item.scene_seed for item in test_items}:
        raise SystemExit("a picture is in both sets")
    directory = local_directory(arguments.model)
    with TinyGPTV.from_pretrained(directory, threads=arguments.threads) as model:
        model_id = model.info["model_id"]
        fitted = answered(model, "fit", fit_items, FIT_SEED, arguments.work)
        tested = answered(model, "test", test_items, TEST_SEED, arguments.work)
    outcome = calibrate(model_id, [example(item) for item in fit_items], fitted)
    figures = examine(outcome.calibration, test_items, tested)
    show(figures)
    line = {"benchmark": "calibration", "model": model_id[:12], "fit": outcome.to_dict(), "test": figures}
    print(json.dumps(line))
    if arguments.plot is not None:
        plot(figures, arguments.plot)
    if arguments.save:
        append("calibration.jsonl", [line])
    if arguments.write:
        print(f"written: {write_calibration(directory, outcome.calibration)}", file=sys.stderr)
    return 1 if figures["confidence"]["ece"] > LIMIT else 0


if __name__ == "__main__":
    raise SystemExit(main())
