"""A kiosk: every visitor gets an answer in time, whole or as far as it has come.

``deadline_ms`` counts from the call and covers everything: opening the picture, the vision side, waiting, decoding.
What was said by then comes back with ``finish_reason == "deadline"``. A visitor who stays gets the rest.

Run: python examples/kiosk_deadline.py [PICTURE] [--deadline-ms 400] [--visitors 4] [--model DIR]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import tinygptv_fast as tgv
from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.layout import arrange

SCENES = ("red circle left of blue star", "two plain hearts", "green ring above yellow cross", "blue square")
QUESTIONS = (("How many shapes are there?", "vqa"), (None, "grounding"))  # a short answer, and a long one


def serve(model: tgv.TinyGPTV, picture: Any, deadline_ms: float) -> list[tgv.Answer]:
    """All questions about one visitor's picture, each within its deadline."""
    answers = []
    for question, task in QUESTIONS:
        began = time.perf_counter()
        answer = model.generate(picture, question, task=task, deadline_ms=deadline_ms)
        took_ms = 1e3 * (time.perf_counter() - began)
        answers.append(answer)
        said = answer.text or "(nothing yet)"
        print(
            f"  {question or task}: {said}{' ...' if cut(answer) else ''}  [{answer.finish_reason}, {took_ms:.0f} ms]"
        )
    return answers


def cut(answer: tgv.Answer) -> bool:
    return answer.finish_reason == "deadline"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", nargs="?", help="a picture that every visitor brings; without one they are drawn")
    parser.add_argument("--deadline-ms", type=float, default=400, help="for each answer (default: 400)")
    parser.add_argument("--visitors", type=int, default=4, help="how many come (default: 4)")
    parser.add_argument("--model", default="demo", help="a model directory (default: the shipped demo)")
    arguments = parser.parse_args()
    answers: list[tgv.Answer] = []
    with tgv.TinyGPTV.from_pretrained(arguments.model) as model:
        model.generate(draw(arrange("red circle", 5), 64), "warm up", max_new_tokens=1)  # before the doors open
        for visitor in range(arguments.visitors):
            print(f"visitor {visitor}")
            picture = arguments.picture or draw(arrange(SCENES[visitor % len(SCENES)], visitor), 384)
            answers += serve(model, picture, arguments.deadline_ms)
        print("the last one stays for the rest:", model.describe(picture).text)
    print(f"{len(answers)} answers, {sum(map(cut, answers))} cut by the deadline")


if __name__ == "__main__":
    main()
