"""What a model answers to examples whose answers are known: asked in batches, kept line by line, gone on with later.

Knows examples and the public model; judges and fits nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError
from ..generate import Answer, TinyGPTV
from ..generate.confidence import TERMS, Evidence, evidence
from ..processing.prompt import TASKS, task_text
from ..processing.tokenizer import Tokenizer
from ..train.stages.examples import Example

TOGETHER = 16  # examples asked together; an interrupt loses at most so many
KIND, VERSION = "tinygptv_calibration_answers", 1


@dataclass(frozen=True)
class Given:
    """What the model said to an example. reason: as in ``Answer.finish_reason``. means: for each of the example's
    choices the mean log-probability of its tokens, () where it has none."""

    text: str
    reason: str
    evidence: Evidence
    probability: float
    means: tuple[float, ...] = ()


def answer_examples(
    model: TinyGPTV,
    examples: Sequence[Example],
    digest: str,
    settings: Mapping[str, Any],
    path: Path | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Given]:
    """The greedy answers to ``examples``, in order, and how likely each of their choices is.

    digest: names the examples. settings: of ``generate``, for all. path: each answer is a line of this file at once;
    those that stand there already are not asked again. report: called with (answered, all). Raises
    InvalidArgumentError where the file holds answers of another model, other data or other settings.
    """
    key = {"model": model.info["model_id"], "data": digest, "settings": dict(settings)}
    given = [] if path is None else read_answers(path, key, len(examples))
    report(len(given), len(examples))
    while len(given) < len(examples):
        part = examples[len(given) : len(given) + TOGETHER]
        new = _ask(model, part, settings)
        if path is not None:
            _append(path, key, new)
        given += new
        report(len(given), len(examples))
    return given


def messages(example: Example) -> list[dict[str, Any]]:
    """``example`` for ``generate(messages=)``: earlier turns with their true answers, the last one open. A picture may
    be a function that draws it, which is called here."""
    out: list[dict[str, Any]] = []
    for turn in example.turns:
        text = task_text(example.task, turn.question or "")
        out += [{"role": "user", "content": [{"type": "text", "text": text}]}]
        out += [{"role": "assistant", "content": turn.answer}]
    out[0]["content"][:0] = [{"type": "image", "image": _picture(one)} for one in example.images]
    return out[:-1]


def _picture(one: Any) -> Any:
    if callable(one):
        return one()
    return str(one) if isinstance(one, Path) else one


def task_of(example: Example) -> str | None:
    """The task of the question that is open: the example's own, else that of the tag it begins with."""
    question = (example.turns[-1].question or "").lstrip()
    return example.task or next((name for name, task in TASKS.items() if question.startswith(task.tag)), None)


def evidence_of(answer: Answer, tokenizer: Tokenizer) -> Evidence:
    """The evidence that the model itself has seen when it made ``answer``."""
    decoder = tokenizer.stream(skip_special_tokens=True)
    pieces = [decoder.put(token) for token in answer.token_ids]
    return evidence("".join(pieces), [len(piece) for piece in pieces], answer.logprobs)


def _ask(model: TinyGPTV, part: Sequence[Example], settings: Mapping[str, Any]) -> list[Given]:
    free = [{"messages": messages(example), **settings} for example in part]
    chosen = [{**free[i], "choices": list(example.choices)} for i, example in enumerate(part) if example.choices]
    answers = iter(_answers(model, free + chosen))
    out = [_given(next(answers), model.tokenizer) for _ in part]
    for index, example in enumerate(part):
        if example.choices:
            first = next(answers)
            found = {one.text: sum(one.logprobs) / len(one.logprobs) for one in (first, *first.alternatives)}
            out[index] = Given(**{**vars(out[index]), "means": tuple(found[choice] for choice in example.choices)})
    return out


def _answers(model: TinyGPTV, requests: list[dict[str, Any]]) -> list[Answer]:
    return [answer for answer in model.generate_batch(requests) if isinstance(answer, Answer)]  # errors are raised


def _given(answer: Answer, tokenizer: Tokenizer) -> Given:
    return Given(answer.text, answer.finish_reason, evidence_of(answer, tokenizer), answer.probability)


# -- the file ----------------------------------------------------------------------------------------------------------
def read_answers(path: Path, key: Mapping[str, Any], most: int) -> list[Given]:
    """The answers in ``path``, [] where it does not exist. A last line cut short is taken out of the file."""
    if not path.exists():
        return []
    lines = path.read_text("utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):  # the interrupted run had begun it
        lines.pop()
        _replace(path, "".join(lines))
    if not lines:
        return []
    head, *rows = (_parse(path, number, line) for number, line in enumerate(lines, 1))
    if head.get("kind") != KIND or head.get("version") != VERSION or len(rows) > most:
        raise InvalidArgumentError(f"answers is {path}, which is no file of calibration answers; expected a new file")
    for name, value in key.items():
        if head.get(name) != value:
            raise InvalidArgumentError(f"answers is {path}, which holds answers of other {name}; expected a new file")
    return [_row(path, number, row) for number, row in enumerate(rows, 2)]


def _parse(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise InvalidArgumentError(f"answers is {path}, whose line {number} is no answer; expected a new file")
    return row


def _row(path: Path, number: int, row: dict[str, Any]) -> Given:
    try:
        found = row["evidence"]
        total, words, weakest, places = (float(found[name]) for name in TERMS)
        seen = Evidence(total, words, weakest, places, bool(found["boxed"]))
        means = tuple(map(float, row["means"]))
        return Given(str(row["text"]), str(row["reason"]), seen, float(row["probability"]), means)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InvalidArgumentError(
            f"answers is {path}, whose line {number} is no answer, expected a new file"
        ) from None


def _append(path: Path, key: Mapping[str, Any], given: Sequence[Given]) -> None:
    """All lines of a batch in one write, seen on disk."""
    lines = [json.dumps(asdict(one), ensure_ascii=False, allow_nan=False) + "\n" for one in given]
    with path.open("a", encoding="utf-8") as handle:
        if handle.tell() == 0:
            lines.insert(0, json.dumps({"kind": KIND, "version": VERSION, **key}) + "\n")
        handle.write("".join(lines))
        handle.flush()
        os.fsync(handle.fileno())


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, "utf-8")
    os.replace(partial, path)
