"""How a question is put to a model: as the original's scripts put it, or in the model's own form."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..compat.original import END_SYMBOL, clean_generated, training_begin
from ..errors import InvalidArgumentError
from ..generate import Answer, TinyGPTV
from ..processing.prompt import default_question
from ..processing.templates import IMAGE_MARKUP, get_template
from .benchmark import Benchmark
from .question import Given, Question

PROTOCOLS = ("paper", "plain")


@dataclass(frozen=True)
class Settings:
    """How all questions are asked.

    protocol: "paper": the original's wording in the template of its evaluation scripts, greedy, at most 20 tokens, no
    stop string, so that its scorer gets what its own generate gave it; "plain": the question as the file has it with
    the task's tag, in the model directory's template with its stop strings. template, max_new_tokens: instead of the
    protocol's own.
    """

    protocol: str = "paper"
    template: str | None = None
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise InvalidArgumentError(f"protocol is {self.protocol!r}, expected one of {', '.join(PROTOCOLS)}")
        if self.template is not None and get_template(self.template).verbatim:
            raise InvalidArgumentError("template is 'raw', expected one that says where the question stands")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def requests(model: TinyGPTV, benchmark: Benchmark, question: Question, settings: Settings) -> list[dict[str, Any]]:
    """What ``generate_batch`` is given for one question: the open request, where the set has one, then the ranking of
    its candidates, where it has some."""
    candidates = list(benchmark.candidates(question))
    make = _paper if settings.protocol == "paper" else _plain
    base = {"image": str(question.image)} | make(benchmark, question, settings)
    out: list[dict[str, Any]] = []
    if benchmark.generates:
        limit = settings.max_new_tokens or (benchmark.limit if settings.protocol == "paper" else None)
        out.append({**base, "max_new_tokens": limit, **({"boxes": "free"} if settings.protocol == "paper" else {})})
    if candidates and settings.protocol == "paper":  # as the original's multi_select computes losses
        ends = [candidate + END_SYMBOL for candidate in candidates]
        out.append({**base, "prompt": training_begin(model) + base["prompt"], "choices": ends})
    elif candidates:
        out.append({**base, "choices": candidates})
    return out


def given(
    model: TinyGPTV,
    benchmark: Benchmark,
    question: Question,
    settings: Settings,
    answers: list[Answer],
    seconds: float,
) -> Given:
    """What the answers to ``requests`` say; ``seconds``: what they took. Under "paper" the text is that of the
    original's ``generate``, with the spaces of its slow tokenizer."""
    found = list(answers)
    text, words = "", 0
    if benchmark.generates:
        said = found.pop(0)
        paper = settings.protocol == "paper"
        text = clean_generated(model.tokenizer.decode_slow(said.token_ids)) if paper else said.text
        words = len(text.split())
    means: dict[str, float] = {}
    if found:
        every = (found[0], *found[0].alternatives)
        means = {one.text.removesuffix(END_SYMBOL): sum(one.logprobs) / len(one.logprobs) for one in every}
    if not benchmark.generates:
        text = max(question.choices, key=lambda choice: means[choice])
    return Given(text, means, seconds, words)


def _paper(benchmark: Benchmark, question: Question, settings: Settings) -> dict[str, Any]:
    text = benchmark.wording.replace("{}", question.text)
    template = get_template(settings.template or benchmark.template)
    return {"prompt": template.render([("user", f"{IMAGE_MARKUP} {text}")]), "template": "raw"}


def _plain(benchmark: Benchmark, question: Question, settings: Settings) -> dict[str, Any]:
    if not question.text:
        return {"prompt": default_question(benchmark.task), "template": settings.template}
    return {"prompt": question.text, "task": benchmark.task, "template": settings.template}
