"""Convert and examine: 4,000 held-out questions of ten families, with controls, by the native engine.

Everything asked of a model is answered greedily through the public facade from files on the disk. Answers are kept
beside the report, exam by exam, so that a report that was stopped goes on. The shipped directory gets its log and, in
its receipt, how far it is from the unquantised model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ...checkpoint.directory import open_directory
from ...conversion import load_state
from ...data.question import Question
from ...data.scoring import iou, read_boxes
from ...data.world.asking import SEEN, Split, kinds_for
from ...data.world.drawing import draw
from ...data.world.sampler import ExamItem, exam, grey_picture
from ...data.world.scoring import is_right, refuses
from ...data.world_vocabulary import tokenizer_json
from ...generate import TinyGPTV
from ...processing.image import ImageProcessor
from ...processing.tokenizer import Tokenizer
from ...quantize.agreement import AgreementCounter, Estimate, wilson_interval
from ...quantize.receipt import write_receipt
from ...reference.loss import IGNORE
from ...reference.model import TinyGPTVReference
from ..stages.interrupt import stop_on_interrupt
from .finish import write_unquantised
from .log import write_log
from .loop import Bar, Paused, Session, write_json
from .recipe import SHIPPED
from .rows import Conversation, RowWriter, answer_logits
from .stages import write_directory

#: Family → its kinds; each family has a tenth of the questions, shared equally among its kinds.
FAMILIES: dict[str, tuple[str, ...]] = {
    "attributes": ("colour", "shape", "size", "texture"),
    "yes or no": ("exist", "statement"),
    "counting": ("count",),
    "relations": ("relation", "side", "comparison", "position"),
    "words": ("word",),
    "places": ("refer",),
    "names and boxes": ("identify", "detection", "grounding"),
    "telling": ("caption", "dialogue"),
    "absent": ("absent",),
    "outside": ("unknown", "nothing", "number"),
}
#: The same kinds with something held out from training; a tenth of the questions each.
HELD_OUT: dict[str, Split] = {
    "held-out pairs": Split(pairs="held_out"),
    "held-out wordings": Split(wordings="held_out"),
    "held-out words": Split(words="held_out"),
}
EXAM_SEED, _AGREEMENT_SEED, _COMPARED_SEED = 9_300_001, 9_400_001, 9_600_001
#: How many times the exam's questions int4 and float32 are compared on. Of 400 a family half a point is two answers,
#: and chance alone makes three; where rounding changes two or three answers in a hundred, it takes most.
_COMPARED = {family: 9 if family in ("counting", "names and boxes", "telling") else 3 for family in FAMILIES}
MORE = "int4 against float32, more questions"
_SIDE = 256  # pixels of an exam's pictures, longer side
_BATCH = 32


def share(right: int, asked: int) -> dict[str, Any]:
    """A proportion with its 95 % Wilson interval."""
    low, high = wilson_interval(right, asked)
    return {
        "asked": asked,
        "right": right,
        "share": round(right / asked, 4),
        "interval": [round(low, 4), round(high, 4)],
    }


def questions_per_kind(total: int) -> dict[str, int]:
    """How many questions of each kind make up at least ``total``, a tenth of it or a little more in each family."""
    return {kind: -(-total // (len(FAMILIES) * len(kinds))) for kinds in FAMILIES.values() for kind in kinds}


def make_exam(total: int, split: Split = SEEN, seed: int = EXAM_SEED) -> list[ExamItem]:
    """``total`` questions, the kinds in the shares of ``FAMILIES``; of ``split`` a tenth over the kinds it has."""
    if split == SEEN:
        return [item for kind, count in questions_per_kind(total).items() for item in exam(seed, [kind], count)]
    kinds = kinds_for(split)
    return exam(seed, kinds, max(1, total // len(FAMILIES) // len(kinds)), split)


def make_comparison(total: int) -> list[ExamItem]:
    """The questions that int4 and float32 are compared on besides those of an exam of ``total``."""
    many, family = questions_per_kind(total), {kind: name for name, kinds in FAMILIES.items() for kind in kinds}
    return [item for kind in many for item in exam(_COMPARED_SEED, [kind], _COMPARED[family[kind]] * many[kind])]


def score(items: Sequence[tuple[Question, str]]) -> dict[str, Any]:
    """Figures of (question, given answer): by family, by kind, refusals of questions that had an answer."""
    if not items:
        return {}
    by_kind: dict[str, list[bool]] = {}
    for question, answer in items:
        by_kind.setdefault(question.kind, []).append(is_right(question, answer))
    families = {}
    for family, kinds in FAMILIES.items():
        marks = [mark for kind in kinds for mark in by_kind.get(kind, [])]
        if marks:
            families[family] = share(sum(marks), len(marks))
    answerable = [answer for question, answer in items if not question.refusal]
    return {
        "all": share(sum(sum(marks) for marks in by_kind.values()), len(items)),
        "families": families,
        "kinds": {kind: share(sum(marks), len(marks)) for kind, marks in by_kind.items()},
        "false refusals": share(sum(map(refuses, answerable)), len(answerable)) if answerable else None,
    }


def paired(first: Sequence[bool], second: Sequence[bool]) -> dict[str, Any]:
    """The difference second - first of two models on the same questions, in points, with its 95 % interval (normal,
    from the questions on which they differ)."""
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    won = sum(b and not a for a, b in zip(first, second, strict=True))
    return difference(len(first), won, lost)


def difference(asked: int, won: int, lost: int) -> dict[str, Any]:
    """As ``paired``, from how many of ``asked`` questions the second model won and lost."""
    mean = (won - lost) / asked
    spread = 1.96 * (max(0.0, (won + lost) / asked - mean * mean) / asked) ** 0.5
    return {
        "asked": asked,
        "won": won,
        "lost": lost,
        "points": round(100 * mean, 2),
        "interval": [round(100 * (mean - spread), 2), round(100 * (mean + spread), 2)],
    }


def box_overlap(questions: Sequence[Question], first: Sequence[str], second: Sequence[str]) -> dict[str, Any]:
    """Mean IoU of the boxes that two models give to the same [refer] questions; 0 where only one gives a box."""
    found = []
    for question, a, b in zip(questions, first, second, strict=True):
        if question.kind == "refer":
            one, other = read_boxes(a), read_boxes(b)
            if one or other:
                found.append(iou(one[0], other[0]) if one and other else 0.0)
    return {"boxes": len(found), "mean_iou": round(sum(found) / len(found), 4) if found else None}


@dataclass(frozen=True)
class Paper:
    """One exam of one model: which directory answers, the questions, which picture is shown with each."""

    name: str
    directory: Path
    items: Sequence[ExamItem]
    shown: str = "own"  # own | grey | other

    def picture(self, item: ExamItem) -> Image.Image:
        if self.shown == "grey":
            return grey_picture(item.scene, _SIDE)
        return draw(item.scene if self.shown == "own" else item.other_scene, _SIDE)


def answer_paper(session: Session, paper: Paper) -> list[str]:
    """Greedy answers, kept in ``report/NAME.json`` batch by batch."""
    path = session.path("report", f"{paper.name}.json")
    key = {"model": open_directory(paper.directory).content_hash, "questions": len(paper.items)}
    answers: list[str] = []
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        answers = kept["answers"] if kept["key"] == key else []
    if len(answers) >= len(paper.items):
        return answers
    bar = Bar(session, f"report: {paper.name}", len(answers), len(paper.items))
    try:
        with TinyGPTV.from_pretrained(paper.directory) as model, stop_on_interrupt() as asked:
            while len(answers) < len(paper.items):
                began = time.monotonic()
                part = paper.items[len(answers) : len(answers) + _BATCH]
                requests = [{"messages": _messages(item.question, paper.picture(item))} for item in part]
                for one in model.generate_batch(requests):
                    if isinstance(one, Exception):
                        raise one
                    answers.append(one.text)
                bar.step(len(answers), {}, (time.monotonic() - began) / len(part))
                if asked.asked or session.late() or len(answers) == len(paper.items) or len(answers) % 640 == 0:
                    write_json(path, {"key": key, "answers": answers})
                    bar.line({"answers": len(answers)})
                if asked.asked:
                    raise KeyboardInterrupt
                if session.late() and len(answers) < len(paper.items):
                    raise Paused
    finally:
        bar.close()
    return answers


def _messages(question: Question, picture: Image.Image) -> list[dict[str, Any]]:
    messages = question.messages()
    messages[0]["content"][0]["image"] = picture
    return messages


@dataclass(frozen=True)
class Agreement:
    """Of the answer tokens that are no coordinates, and of all."""

    words: AgreementCounter
    every: AgreementCounter


@torch.no_grad()
def agreement(first: Path, second: Path, items: Sequence[ExamItem], batch: int = 32) -> Agreement:
    """How often both models' most likely token is the same, each behind the true tokens and each with its own vision
    side, and how far their predictions are apart."""
    models = [read_back(path) for path in (first, second)]
    assert models[0].config.qformer is not None
    writer = RowWriter(Tokenizer.from_string(tokenizer_json()), models[0].config.qformer.queries)
    words, every = AgreementCounter(), AgreementCounter()
    for start in range(0, len(items), batch):
        part = items[start : start + batch]
        rows = writer.write([Conversation((item.question,), (True,), None, i) for i, item in enumerate(part)])[0]
        assert models[0].config.vision is not None
        processor = ImageProcessor(models[0].config.vision.image_size)
        pixels = torch.stack([processor.pixels(draw(item.scene, _SIDE)) for item in part])
        said = []
        for model in models:
            seen = model.qformer(model.ln_vision(model.vision(pixels)))
            said.append(answer_logits(model.text, model.projector, seen, rows))
        plain, rounded = said
        every.update(plain, rounded)
        words.update(plain, rounded, ~rows.coordinate[rows.labels != IGNORE])
    return Agreement(words, every)


def read_back(path: Path) -> TinyGPTVReference:
    directory = open_directory(path)
    model = TinyGPTVReference(directory.config)
    model.load_state_dict({name: tensor.float() for name, tensor in load_state(directory).items()})
    return model.eval()


def convert(session: Session) -> tuple[Path, Path]:
    """Write (the unquantised model as S4 left it, the model to ship): ``float32`` and ``demo`` in the run's folder."""
    shipped, config = session.folder / "demo", session.recipe.model_config(session.recipe.large_size)
    write_directory(session, config, session.weights("finish")["model"], shipped, quantization=SHIPPED)
    return write_unquantised(session), shipped


def report(session: Session) -> None:
    """Write both directories, examine them, leave ``report/report.json`` and ``report/report.md``."""
    began = time.monotonic()
    plain, shipped = convert(session)
    total = session.recipe.report_questions
    items = make_exam(total)
    papers = [
        Paper("int4", shipped, items),
        Paper("float32", plain, items),
        Paper("grey picture", shipped, items, "grey"),
        Paper("other picture", shipped, items, "other"),
        *(Paper(name, shipped, make_exam(total, split)) for name, split in HELD_OUT.items()),
    ]
    answers = {paper.name: answer_paper(session, paper) for paper in papers}
    questions = {paper.name: [item.question for item in paper.items] for paper in papers}
    figures: dict[str, Any] = {
        name: score(list(zip(questions[name], given, strict=True))) for name, given in answers.items()
    }
    figures["int4 against float32"] = compare(questions["int4"], answers["float32"], answers["int4"])
    more = make_comparison(total)
    both = (Paper("float32, compared", plain, more), Paper("int4, compared", shipped, more))
    figures[MORE] = compare([item.question for item in more], *(answer_paper(session, paper) for paper in both))
    some = make_exam(max(40, total // 4), seed=_AGREEMENT_SEED)
    agreed = agreement(plain, shipped, [item for item in some if not item.question.history])
    figures["agreement"] = _estimate(agreed.words.tokens())
    write_receipt(shipped / "quality.json", open_directory(shipped).quality.with_agreement(agreed.every))
    write_log(session, shipped, figures)
    figures["bytes"] = sum(file.stat().st_size for file in shipped.iterdir())
    write_json(session.path("report", "report.json"), figures)
    session.path("report", "report.md").write_text(as_table(figures), encoding="utf-8")
    session.note(as_table(figures))
    session.finish(
        "report", {"seconds": round(time.monotonic() - began, 1), "recipe": session.recipe.digest_of("report")}
    )


def _estimate(value: Estimate) -> dict[str, Any]:
    return {
        "asked": value.positions,
        "share": round(value.value, 5),
        "interval": [round(value.low, 5), round(value.high, 5)],
    }


def compare(questions: Sequence[Question], plain: Sequence[str], rounded: Sequence[str]) -> dict[str, Any]:
    """The two models on the same questions: by family, and how far their boxes are apart."""
    out: dict[str, Any] = {}
    for family, kinds in FAMILIES.items():
        mine = [i for i, question in enumerate(questions) if question.kind in kinds]
        if mine:
            marks = [[is_right(questions[i], given[i]) for i in mine] for given in (plain, rounded)]
            out[family] = paired(marks[0], marks[1])
    return {"families": out, "boxes": box_overlap(questions, plain, rounded)}


def as_table(figures: Mapping[str, Any]) -> str:
    """The report as markdown: a row a family, a column an exam, in per cent."""
    exams = [name for name, value in figures.items() if isinstance(value, dict) and "kinds" in value]
    lines = [f"| family | {' | '.join(exams)} |", f"|---|{'---|' * len(exams)}"]
    for family in FAMILIES:
        cells = [_cell(figures[name]["families"].get(family)) for name in exams]
        lines.append(f"| {family} | {' | '.join(cells)} |")
    for row in ("all", "false refusals"):
        lines.append(f"| {row} | {' | '.join(_cell(figures[name][row]) for name in exams)} |")
    agreed = figures["agreement"]
    lines.append("")
    for name in ("int4 against float32", MORE):
        worst = min((value["points"] for value in figures[name]["families"].values()), default=0.0)
        lines.append(
            f"{name}: at worst {worst:+.2f} points in a family; boxes' mean IoU {figures[name]['boxes']['mean_iou']}."
        )
    lines += [
        f"Agreement on tokens that are no coordinates: {_cell(agreed)} of {agreed['asked']}.",
        f"{figures['bytes']:,} bytes.",
    ]
    return "\n".join(lines) + "\n"


def _cell(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return ""
    low, high = value["interval"]
    return f"{100 * value['share']:.1f} ({100 * low:.1f}-{100 * high:.1f})"
