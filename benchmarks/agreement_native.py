"""What int4 weights cost in quality, and what the native engine's int8 activations and int8 KV add to it.

    python benchmarks/agreement_native.py --exact DIR --int4 DIR    # the same model, unquantised and at int4
    python benchmarks/agreement_native.py                           # the demo: no unquantised twin is shipped

Four ways to compute the same model, all on the native engine, over the same visual tokens (the int4 directory's vision
side in float32, or the exact one's):

    fp32         unquantised weights, float32 throughout
    int4         int4 weights as float32 numbers, float32 activations and KV
    int4 act8    int4 weights, int8 activations, float32 KV
    int4 act8kv8 what the engine runs by default

The first one's greedy answers are fed to all (teacher forcing) and the distributions at each answer position compared:
KL(fp32 || each), and how often the most likely token is the same, with and without box coordinates, whose neighbours a
model may hold nearly equal. Boxes of free answers are compared by their mean IoU. Without --exact the answers are
those of "int4", and KL(fp32||int4) is what the directory's quality.json states, which counts the rounding of the vision
side as well.

Wanted: what activations and KV add at most 25 % of KL(fp32||int4), agreement of other tokens >= 99 %, IoU >= 0.95.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tinygptv_fast import _native
from tinygptv_fast.bench.runner import git_hash
from tinygptv_fast.checkpoint.directory import ModelDirectory, open_directory
from tinygptv_fast.data.world.asking import KINDS
from tinygptv_fast.data.world.drawing import canvas, draw
from tinygptv_fast.data.world.sampler import ExamItem, exam
from tinygptv_fast.diagnosis.weights import DirectorySource, check_same_model
from tinygptv_fast.engine import choose_forms, load_weights
from tinygptv_fast.errors import TinyGPTVError
from tinygptv_fast.generate.loading import locate
from tinygptv_fast.processing.boxes import Boxes, parse_boxes
from tinygptv_fast.processing.image import ImageProcessor
from tinygptv_fast.processing.prompt import encode_prompt, render
from tinygptv_fast.processing.tokenizer import Tokenizer
from tinygptv_fast.protocol import Prompt
from tinygptv_fast.quantize.agreement import AgreementCounter, Estimate
from tinygptv_fast.vision import VisionTower

SEED = 9_200_001
SIDE = 256  # pixels of the longer side of a picture
LIMITS = {"added_share": 0.25, "agreement": 0.99, "iou": 0.95}
BOXED = ("refer", "detection", "grounding")


@dataclass(frozen=True)
class Way:
    """One way to compute: which directory, "float32" or "auto" (as stored), the KV type."""

    name: str
    exact: bool
    dtype: str
    kv: str


WAYS = (
    Way("fp32", True, "float32", "f32"),
    Way("int4", False, "float32", "f32"),
    Way("int4 act8", False, "auto", "f32"),
    Way("int4 act8kv8", False, "auto", "int8"),
)


@dataclass
class Case:
    """A question with its picture's visual tokens; ``told`` are the ids that are fed, ``coordinate`` says of each
    whether it is a number inside a box."""

    item: ExamItem
    prompt: Prompt
    told: list[int]
    coordinate: list[bool]


@contextmanager
def engine(directory: ModelDirectory, way: Way, threads: int) -> Iterator[_native.Engine]:
    text = directory.config.text
    loaded = load_weights(directory, choose_forms(directory, way.dtype), None, threads=threads)
    tokens = 4 * text.max_positions
    running = _native.Engine(loaded.weights, threads=threads, kv_kind=way.kv, kv_tokens=tokens, max_sequences=8)
    try:
        yield running
    finally:
        running.close()


def events(running: _native.Engine, request: int) -> Iterator[tuple[Any, ...]]:
    """All events of a request; raises if it ends in an error."""
    while True:
        for event in running.next(request, 5.0):
            if event[0] == "done":
                return
            if event[0] == "end" and event[2] == "error":
                raise TinyGPTVError(event[3])
            yield event


# --- the questions ----------------------------------------------------------------------------------------------------
def make_cases(directory: ModelDirectory, per_kind: int) -> list[Case]:
    """Every kind of question, each about a drawn picture of its own, through the float32 vision side."""
    tokenizer = Tokenizer.from_file(directory.tokenizer_file)
    tower = VisionTower(directory, "float32")
    processor = ImageProcessor.from_dict(directory.preprocessor)
    cases = []
    for item in exam(SEED, tuple(KINDS), per_kind):
        if item.question.history:  # the last turn of a dialogue needs the answers before it
            continue
        text = render(item.question.prompt, images=1, template=directory.template, task=item.question.task)
        visual = tower.encode(processor.pixels(draw(item.scene, SIDE)))
        cases.append(Case(item, Prompt.of(encode_prompt(text, tokenizer), [visual.numpy()]), [], []))
    return cases


def answers(
    running: _native.Engine, cases: Sequence[Case], stops: Sequence[str], eos: Sequence[int], longest: int
) -> list[list[int]]:
    """Greedy ids of every case, the end included."""
    out = []
    for case in cases:
        prompt: Any = case.prompt
        request = running.submit(
            prompt.ids, prompt.embeddings, max_new_tokens=longest, eos_ids=list(eos),
            stop=[stop.encode() for stop in stops],
        )  # fmt: skip
        out.append([event[2] for event in events(running, request) if event[0] == "token"])
    return out


def coordinates(tokenizer: Tokenizer, ids: Sequence[int]) -> list[bool]:
    """Which tokens hold digits between { and }."""
    out, inside = [], False
    for index in ids:
        text = tokenizer.decode([index], skip_special_tokens=False)
        out.append(inside and any(c.isdigit() for c in text))
        if "{" in text or "}" in text:
            inside = text.rfind("{") > text.rfind("}")
    return out


def answer_logits(running: _native.Engine, case: Case) -> torch.Tensor:
    """float32 [len(told), V]: what is predicted at each position of the answer that is fed."""
    ids: Any = np.concatenate([case.prompt.ids, np.array(case.told[:-1], np.int32)]).astype(np.int32)
    embeddings: Any = case.prompt.embeddings
    request = running.submit_logits(ids, embeddings, first=len(case.prompt) - 1)
    parts = [torch.from_numpy(np.array(event[1])) for event in events(running, request) if event[0] == "logits"]
    return torch.cat(parts)


# --- figures ----------------------------------------------------------------------------------------------------------
def boxes_of(case: Case, tokenizer: Tokenizer, ids: Sequence[int]) -> Boxes:
    return parse_boxes(tokenizer.decode(ids), *canvas(case.item.scene, SIDE))


def mean_iou(theirs: Sequence[Boxes], ours: Sequence[Boxes]) -> tuple[float, int]:
    """(mean IoU of the i-th boxes of each answer, number of boxes); a box that one of the two lacks counts 0."""
    total, count = 0.0, 0
    for a, b in zip(theirs, ours, strict=True):
        total += sum(x.iou(y) for x, y in zip(a, b, strict=False))
        count += max(len(a), len(b))
    return (total / count if count else float("nan")), count


def compare(reference: list[torch.Tensor], other: list[torch.Tensor], cases: Sequence[Case]) -> dict[str, Any]:
    """KL and agreement over all tokens, and agreement over those that are no coordinates."""
    every, words, places = AgreementCounter(), AgreementCounter(), AgreementCounter()
    for ours, theirs, case in zip(reference, other, cases, strict=True):
        every.update(ours, theirs)
        mask = torch.tensor(case.coordinate)
        for counter, chosen in ((words, ~mask), (places, mask)):
            if bool(chosen.any()):
                counter.update(ours, theirs, chosen)
    return {
        "kl": _estimate(every.kl()),
        "agreement": _estimate(every.tokens()),
        "agreement_other_tokens": _estimate(words.tokens()),
        "agreement_coordinates": _estimate(places.tokens()) if any(any(case.coordinate) for case in cases) else None,
    }


def _estimate(value: Estimate) -> dict[str, float]:
    return {"value": value.value, "low": value.low, "high": value.high, "n": value.positions}


def run(
    exact: ModelDirectory | None, int4: ModelDirectory, per_kind: int, threads: int, longest: int
) -> dict[str, Any]:
    """All figures as one json-ready dict."""
    tokenizer = Tokenizer.from_file(int4.tokenizer_file)
    cases = make_cases(exact or int4, per_kind)
    stops = list(int4.template.stop)
    eos = [i for i in [int4.config.eos_token_id] if i is not None] + [
        ids[0] for ids in map(tokenizer.encode, stops) if len(ids) == 1
    ]
    ways = [way for way in WAYS if exact is not None or not way.exact]
    logits: dict[str, list[torch.Tensor]] = {}
    boxed = [case for case in cases if case.item.question.kind in BOXED]
    found: dict[str, list[Boxes]] = {}
    for way in ways:
        source = exact if way.exact and exact is not None else int4
        with engine(source, way, threads) as running:
            free = answers(running, cases if way is ways[0] else boxed, [], eos, longest)
            if way is ways[0]:
                for case, ids in zip(cases, free, strict=True):
                    case.told, case.coordinate = ids, coordinates(tokenizer, ids)
                free = [case.told for case in boxed]
            found[way.name] = [boxes_of(case, tokenizer, ids) for case, ids in zip(boxed, free, strict=True)]
            logits[way.name] = [answer_logits(running, case) for case in cases]
    base = ways[0].name
    figures = {way.name: compare(logits[base], logits[way.name], cases) for way in ways[1:]}
    for way in ways[1:]:
        iou, count = mean_iou(found[base], found[way.name])
        figures[way.name]["boxes"] = {"mean_iou": iou, "n": count}
    out: dict[str, Any] = {"base": base, "questions": len(cases), "figures": figures}
    out["verdict"] = verdict(out, exact is not None, int4)
    return out


def verdict(measured: dict[str, Any], has_exact: bool, int4: ModelDirectory) -> dict[str, Any]:
    """The figures that have limits, and whether they are met."""
    figures, last = measured["figures"], measured["figures"]["int4 act8kv8"]
    if has_exact:
        weights = figures["int4"]["kl"]["value"]
        added = last["kl"]["value"] - weights
        source = "measured here"
    else:
        stated = int4.quality.agreement
        weights = float(stated["kl_nats"]) if stated is not None else float("nan")
        added = last["kl"]["value"]
        source = "quality.json of the directory (vision side included)"
    words, iou = last["agreement_other_tokens"]["value"], last["boxes"]["mean_iou"]
    return {
        "kl_fp32_int4": weights, "kl_fp32_int4_from": source, "kl_added": added, "added_share": added / weights,
        "added_share_met": added <= LIMITS["added_share"] * weights,
        "agreement_other_tokens": words, "agreement_met": words >= LIMITS["agreement"] if has_exact else None,
        "mean_iou": iou, "iou_met": iou >= LIMITS["iou"] if has_exact else None,
        "against": "fp32" if has_exact else "int4 weights in float32: what int4 itself costs is not in these two",
    }  # fmt: skip


def show(measured: dict[str, Any]) -> None:
    base = measured["base"]
    print(f"{measured['questions']} questions, teacher-forced on the answers of {base}")
    print(f"{'':14} {'KL':>10} {'same token':>11} {'other tokens':>13} {'coordinates':>12} {'box IoU':>8}")
    for name, f in measured["figures"].items():
        places = f["agreement_coordinates"]
        print(
            f"{name:14} {f['kl']['value']:10.3g} {f['agreement']['value']:11.2%} "
            f"{f['agreement_other_tokens']['value']:13.2%} {places['value'] if places else float('nan'):12.2%} "
            f"{f['boxes']['mean_iou']:8.3f}"
        )
    v = measured["verdict"]
    print(f"KL(fp32||int4) {v['kl_fp32_int4']:.3g} ({v['kl_fp32_int4_from']})")
    share, agreement = f"{v['added_share']:.1%} of it", f"{v['agreement_other_tokens']:.2%}"
    print(f"activations and KV add {v['kl_added']:.3g}, {share} (wanted <= 25 %): {_said(v['added_share_met'])}")
    print(f"other tokens {agreement} against {v['against']} (wanted >= 99 %): {_said(v['agreement_met'])}")
    print(f"boxes' mean IoU {v['mean_iou']:.3f} (wanted >= 0.95): {_said(v['iou_met'])}")


def _said(met: bool | None) -> str:
    return {True: "met", False: "MISSED", None: "cannot be said without --exact"}[met]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--int4", help="directory at int4 (default: the shipped demo)")
    parser.add_argument("--exact", help="directory of the same model with nothing rounded")
    parser.add_argument("--per-kind", type=int, default=20, help="questions of each kind")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="longest answer (default 128)")
    parser.add_argument("--threads", type=int, default=_native.physical_cores())
    parser.add_argument("--json", type=Path, help="append the figures to this file as a line")
    arguments = parser.parse_args()
    if min(arguments.per_kind, arguments.threads, arguments.max_new_tokens) < 1:
        parser.error("--per-kind, --threads and --max-new-tokens must be positive")
    torch.set_num_threads(arguments.threads)
    try:
        path = arguments.int4 or locate("demo", revision=None, token=None, cache_dir=None, local_files_only=True)
        int4 = open_directory(path)
        exact = open_directory(arguments.exact) if arguments.exact else None
        if exact is not None:
            check_same_model(DirectorySource(int4).config, exact.config, str(exact.path))
    except TinyGPTVError as error:
        parser.error(str(error))
    measured = run(exact, int4, arguments.per_kind, arguments.threads, arguments.max_new_tokens)
    show(measured)
    if arguments.json is not None:
        line = {"benchmark": "agreement_native", "git": git_hash(), "cpu": _native.cpu_brand(),
                "isa": _native.best_isa(), "int4": str(path), **measured}  # fmt: skip
        with arguments.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
