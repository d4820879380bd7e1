"""Constrained answers of the demo model: what they cost in accuracy and time, and whether every box of them parses.

    python benchmarks/constrained.py [--refer 300] [--grounding 1000] [--save] [--only refer grounding mask]

Prints one JSON line per measurement (``--save`` appends them to benchmarks/results/constrained.jsonl):

* refer: questions about one thing of a drawn picture, greedy, with boxes "free" and "constrained": the share answered
  right (IoU > 0.5), and how many answers differ. Those that had a box in order must not;
* grounding: descriptions at temperature 1.5, "constrained" and "free": how many have a piece that looks like a box and
  is none, boxes outside the picture, boxes under 1 % wide or high;
* mask: CPU microseconds a token costs beside what the model takes, for boxes, a regular expression and a JSON schema,
  over the demo's vocabulary and one of 50,000 ids; and the first use of each grammar. The first of the library's (the
  regular expression) includes the library's index of the vocabulary.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

import tinygptv_fast as tgv
from quantize_common import append
from stand_in_tokenizer import tokenizer_json
from tinygptv_fast import _native
from tinygptv_fast.data.question import Question
from tinygptv_fast.data.randomness import generator
from tinygptv_fast.data.world.asking import ask
from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.sampling import SceneSpec, random_scene
from tinygptv_fast.data.world.scoring import is_right
from tinygptv_fast.engine.grammars import Grammars, find_library
from tinygptv_fast.processing.boxes import Box, Boxes
from tinygptv_fast.processing.tokenizer import Tokenizer
from tinygptv_fast.protocol import Grammar

STREAM = 78  # of the random numbers: no training picture comes from it
SIDE = 256
SPEC = SceneSpec(min_things=2, max_things=5)
HOT = 1.5
LARGE = 51_200  # ids of Phi-2, padding included
THIN = 0.01 - 1e-9  # of a side
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string"}, "count": {"type": "integer"}, "seen": {"type": "boolean"}},
    "required": ["colour", "count", "seen"],
    "additionalProperties": False,
}
GRAMMARS = (
    Grammar("boxes"),
    Grammar("regex", "[a-z]+ (and [a-z]+ )*[0-9]{1,3}"),
    Grammar("json_schema", json.dumps(SCHEMA)),
)


def pictures(count: int) -> Iterator[tuple[Image.Image, Question]]:
    """Drawn pictures, each with a question where one of its things is."""
    seed = 0
    while count:
        rng = generator(seed, STREAM)
        seed += 1
        scene = random_scene(rng, SPEC)
        question = ask(rng, scene, "refer")
        if question is not None and not question.refusal:
            count -= 1
            yield draw(scene, SIDE), question


def has_box_in_order(boxes: Boxes) -> bool:
    return len(boxes) == 1 and not boxes.dropped and boxes[0].x1 < boxes[0].x2 and boxes[0].y1 < boxes[0].y2


def measure_refer(model: tgv.TinyGPTV, count: int) -> dict[str, Any]:
    """Greedy answers with either setting. SystemExit if one that was in order comes out otherwise."""
    right = {"free": 0, "constrained": 0}
    changed = ill_formed = 0
    for picture, question in pictures(count):
        state = model.encode_image(picture)
        answers = {mode: model.generate(state, question.prompt, task="refer", boxes=mode) for mode in right}
        for mode, answer in answers.items():
            right[mode] += is_right(question, answer.text)
        free, held = answers["free"], answers["constrained"]
        changed += free.token_ids != held.token_ids
        ill_formed += not has_box_in_order(free.boxes)
        if has_box_in_order(free.boxes) and (free.token_ids, free.logprobs) != (held.token_ids, held.logprobs):
            raise SystemExit(f"{free.text!r} was in order and became {held.text!r}")
    out = {"benchmark": "constrained", "what": "refer", "questions": count, "changed": changed}
    return out | {"free_not_one_box_in_order": ill_formed, **{f"right_{mode}": n for mode, n in right.items()}}


def is_outside(box: Box) -> bool:
    return min(box.xyxyn) < 0 or max(box.xyxyn) > 1


def is_thin(box: Box) -> bool:
    x1, y1, x2, y2 = box.xyxyn
    return x2 - x1 < THIN or y2 - y1 < THIN


def measure_grounding(model: tgv.TinyGPTV, count: int, mode: str) -> dict[str, Any]:
    """``count`` descriptions at HOT, eight seeds a picture. SystemExit if a constrained one does not parse."""
    each = 8
    requests = [
        {"image": state, "task": "grounding", "temperature": HOT, "seed": seed, "boxes": mode}
        for picture, _ in pictures(-(-count // each))
        for state in [model.encode_image(picture)]
        for seed in range(each)
    ][:count]
    began = time.perf_counter()
    answers = [answer for answer in model.generate_batch(requests) if isinstance(answer, tgv.Answer)]
    seconds = time.perf_counter() - began
    boxes = [box for answer in answers for box in answer.boxes]
    unparsed = [answer for answer in answers if answer.boxes.dropped or answer.text.count("{") != len(answer.boxes)]
    outside = sum(map(is_outside, boxes))
    if mode == "constrained" and (unparsed or outside or len(answers) != count):
        raise SystemExit(f"{len(unparsed)} answers do not parse, {outside} boxes are outside: {unparsed[:1]}")
    return {
        "benchmark": "constrained", "what": f"grounding, {mode}", "temperature": HOT, "answers": len(answers),
        "answers_that_do_not_parse": len(unparsed), "boxes": len(boxes), "boxes_outside": outside,
        "boxes_under_1_percent": sum(map(is_thin, boxes)),
        "cut_at_max_new_tokens": sum(answer.finish_reason == "length" for answer in answers),
        "tokens_per_s": round(sum(len(answer.token_ids) for answer in answers) / seconds, 1),
    }  # fmt: skip


def walk(grammar: _native.Grammar, token_bytes: Sequence[bytes], written: bytes) -> list[float]:
    """Microseconds of every mask on the way through ``written``, spelt in single bytes."""
    ids = {piece: index for index, piece in reversed(list(enumerate(token_bytes)))}
    row, times = _native.GrammarRow(grammar), []
    for byte in written:
        began = time.thread_time()
        row.fill(200)  # once: the library keeps the mask of a state that is asked for again
        times.append(1e6 * (time.thread_time() - began))
        row.accept(ids[bytes([byte])])
    return times


def measure_masks(name: str, token_bytes: list[bytes]) -> Iterator[dict[str, Any]]:
    """What a mask costs, and the first use of a grammar."""
    find_library("json_schema")
    written = (b"<p>a cup</p>{<1><2><33><100>}", b"red and blue and green 12",
               b'{"colour": "red", "count": 12, "seen": true}')  # fmt: skip
    grammars = Grammars(token_bytes)
    for grammar, text in zip(GRAMMARS, written, strict=True):
        began = time.thread_time()
        made = grammars.get(grammar)
        assert made is not None
        compiled = 1e3 * (time.thread_time() - began)
        times = walk(made, token_bytes, text)
        yield {
            "benchmark": "constrained", "what": f"mask, {grammar.kind}", "vocabulary": name, "ids": len(token_bytes),
            "first_use_ms": round(compiled, 2), "mask_us_median": round(statistics.median(times), 1),
            "mask_us_most": round(max(times), 1),
        }  # fmt: skip


def measure(only: Sequence[str], refer: int, grounding: int) -> Iterator[dict[str, Any]]:
    with tgv.TinyGPTV.from_pretrained("demo") as model:
        if "refer" in only:
            yield measure_refer(model, refer)
        if "grounding" in only:
            yield measure_grounding(model, grounding, "constrained")
            yield measure_grounding(model, grounding, "free")
        if "mask" in only:
            yield from measure_masks("demo", model.tokenizer.token_bytes(model.config.text.vocab_size))
            large = Tokenizer.from_string(tokenizer_json())
            yield from measure_masks("as large as Phi-2's", large.token_bytes(LARGE))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refer", type=int, default=300)
    parser.add_argument("--grounding", type=int, default=1000)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--only", nargs="+", choices=("refer", "grounding", "mask"),
                        default=["refer", "grounding", "mask"])  # fmt: skip
    args = parser.parse_args(argv)
    rows = []
    for row in measure(args.only, args.refer, args.grounding):
        rows.append(row)
        print(json.dumps(row), flush=True)
    if args.save:
        append("constrained.jsonl", rows)


if __name__ == "__main__":
    main()
