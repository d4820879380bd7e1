"""What choosing costs beside reading: eight choices against the prompt's prefill, asking again against asking first.

    python benchmarks/choices_cost.py [--model DIR|demo] [--rounds 20] [--threads N] [--save]

Before anything is timed the answers are checked: every choice scored among eight must have, bit for bit, the
log-probabilities that it has alone, and a picture asked from the cache must give the ids that its kept state gives.
Then one JSON line each (``--save`` appends them to benchmarks/results/choices_cost.jsonl):

* choices: a prompt of at least 96 tokens that the KV cache has never seen, once for a single new token (its prefill)
  and once, another such, with 8 choices of at most 3 tokens each (the whole call): medians in ms, and the second over
  the first;
* again: a picture that was never seen, asked once, and asked another thing once it is in the cache: medians in ms of
  the whole call, and the second over the first.

For the model directory that make_full_size.py and ``tinygptv convert`` make; runs on the demo model too.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import tinygptv_fast as tgv
from quantize_common import append
from tinygptv_fast import _native
from tinygptv_fast.bench.runner import git_hash

PROMPT_TOKENS, CHOICES, CHOICE_TOKENS = 96, 8, 3
SIDE = 64
WORDS = "red green blue yes no one two three left right small large circle star ring cross a b c d e f g h".split()
RAW: dict[str, Any] = {"template": "raw"}  # to the letter: nothing stands before the prompt that the cache could know
QUESTIONS = ("What is in this picture?", "How many things are there?")


def choices_of(model: tgv.TinyGPTV) -> list[str]:
    """CHOICES words that are CHOICE_TOKENS tokens or fewer. SystemExit if the tokenizer has not so many."""
    short = [word for word in WORDS if len(model.tokenizer.encode(word)) <= CHOICE_TOKENS]
    if len(short) < CHOICES:
        raise SystemExit(f"{len(short)} words of at most {CHOICE_TOKENS} tokens, expected {CHOICES}")
    return short[:CHOICES]


def fresh_prompt(model: tgv.TinyGPTV, number: int) -> str:
    """At least PROMPT_TOKENS tokens; no two share a page of the KV cache: they differ from the first word on."""
    text = f"{number}"
    while len(model.tokenizer.encode(text)) < PROMPT_TOKENS:
        text += f" {number} and a word"
    return text


def picture(number: int) -> np.ndarray:
    """A picture of its own, uint8 [SIDE, SIDE, 3]."""
    return np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def check_choices(model: tgv.TinyGPTV, choices: Sequence[str]) -> None:
    """SystemExit unless each choice among all has the log-probabilities it has alone, the most probable first."""
    prompt = fresh_prompt(model, 0)
    ranked = model.rank(None, prompt, choices, **RAW)
    alone = {choice: model.rank(None, prompt, [choice], **RAW)[0].logprobs for choice in choices}
    different = [one.text for one in ranked if one.logprobs != alone[one.text]]
    means = [statistics.fmean(one.logprobs) for one in ranked]
    if different or means != sorted(means, reverse=True) or len(ranked) != len(choices):
        raise SystemExit(f"choices {different or means} are scored otherwise together than alone")


def check_again(model: tgv.TinyGPTV) -> None:
    """SystemExit unless a picture from the cache is answered as its kept state is."""
    shown = picture(0)
    state = model.encode_image(shown)
    for question in QUESTIONS:
        cached, kept = (model.generate(one, question, max_new_tokens=8) for one in (shown, state))
        if (cached.token_ids, cached.logprobs) != (kept.token_ids, kept.logprobs):
            raise SystemExit(f"{cached.text!r} from the cache, {kept.text!r} from the state")


def measure_choices(model: tgv.TinyGPTV, rounds: int) -> dict[str, Any]:
    choices = choices_of(model)
    check_choices(model, choices)
    prefill, whole, tokens = [], [], []
    for number in range(1, rounds + 1):
        read = model.generate(None, fresh_prompt(model, 2 * number), max_new_tokens=1, **RAW)
        best = model.generate(None, fresh_prompt(model, 2 * number + 1), choices=choices, **RAW)
        prefill.append(read.timings.prefill)
        whole.append(best.timings.total)
        tokens.append(best.usage.prompt)
    return {
        "what": "choices", "choices": len(choices), "prompt_tokens": min(tokens),
        "choice_tokens": [len(model.tokenizer.encode(choice)) for choice in choices],
        **_pair("prefill", prefill, "with_choices", whole),
    }  # fmt: skip


def measure_again(model: tgv.TinyGPTV, rounds: int) -> dict[str, Any]:
    check_again(model)
    first, again, vision = [], [], []
    for number in range(1, rounds + 1):
        shown = picture(number)
        asked = [model.generate(shown, question, max_new_tokens=1) for question in QUESTIONS]
        first.append(asked[0].timings.total)
        vision.append(asked[0].timings.vision)
        again.append(asked[1].timings.total)
    return {"what": "again", "vision_ms": round(statistics.median(vision), 3), **_pair("first", first, "again", again)}


def _pair(name: str, values: Sequence[float], other: str, others: Sequence[float]) -> dict[str, Any]:
    """Medians of two series, and the median over rounds of the second over the first of the same round."""
    ratios = [b / a for a, b in zip(values, others, strict=True)]
    return {
        "rounds": len(ratios),
        f"{name}_ms": round(statistics.median(values), 3),
        f"{other}_ms": round(statistics.median(others), 3),
        "ratio": round(statistics.median(ratios), 4),
        "ratio_least": round(min(ratios), 4),
        "ratio_most": round(max(ratios), 4),
    }


def measure(directory: str, rounds: int, threads: int | None) -> Iterator[dict[str, Any]]:
    with tgv.TinyGPTV.from_pretrained(directory, threads=threads) as model:
        facts = {"model": model.info["model_id"][:12], "threads": model.info["threads"], "cpu": _native.cpu_brand()}
        yield {"benchmark": "choices_cost", **measure_choices(model, rounds), **facts}
        yield {"benchmark": "choices_cost", **measure_again(model, rounds), **facts}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="a model directory (default: the shipped demo)")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args(argv)
    rows, commit = [], git_hash()  # before: what runs is what was there when it began
    for row in measure(args.model, args.rounds, args.threads):
        rows.append(row | {"git": commit})
        print(json.dumps(rows[-1]), flush=True)
    if args.save:
        append("choices_cost.jsonl", rows)


if __name__ == "__main__":
    main()
