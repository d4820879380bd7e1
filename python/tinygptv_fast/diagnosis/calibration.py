"""The calibration set: drawn pictures, questions about them, and the true answers, from a seed.

Answers are fed to the model (teacher forcing), so that two models are compared decision by decision on one text. A
text-only model gets a few fixed sentences instead. Knows drawing, prompts and the tokenizer; not weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from ..data.question import Question
from ..data.randomness import generator
from ..data.world.asking import ask
from ..data.world.drawing import draw
from ..data.world.sampling import TEXT, scene_from_seed
from ..processing.prompt import encode_prompt, render
from ..processing.templates import Template
from ..processing.tokenizer import Tokenizer
from .layers import TextInput

DEFAULT_SEED = 20_240_613
DEFAULT_PICTURES = 3
_SIDE = 224
_KINDS = ("grounding", "caption", "colour", "refer", "count", "word")
_SENTENCES = (
    ("What is a triangle?", "A triangle is a flat shape with three straight sides and three corners."),
    ("Name the days of the week.", "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday."),
    ("How does rain form?", "Water vapour rises, cools into droplets, and the droplets fall when they grow heavy."),
    ("Write a function that adds two numbers.", "def add(a, b):\n    return a + b\n"),
)


@dataclass(frozen=True)
class CalibrationSet:
    """``pictures`` and the prompts about them; ``seed`` makes the same set again."""

    pictures: list[Image.Image]
    inputs: list[TextInput]
    seed: int

    @property
    def positions(self) -> int:
        """Judged positions in all."""
        return sum(len(one.judged) for one in self.inputs)


def calibration_set(
    tokenizer: Tokenizer,
    template: Template,
    *,
    query_tokens: int | None,
    pictures: int = DEFAULT_PICTURES,
    seed: int = DEFAULT_SEED,
) -> CalibrationSet:
    """``pictures`` drawn scenes with up to six questions each. ``query_tokens`` None: text only, no pictures.

    Under template "raw" the question stands bare behind the picture.
    """
    if query_tokens is None:
        inputs = [_input(tokenizer, template, q, a, None, None, 0) for q, a in _SENTENCES]
        return CalibrationSet([], inputs, seed)
    drawn, inputs = [], []
    for index in range(pictures):
        scene = scene_from_seed(seed + index, TEXT)
        drawn.append(draw(scene, _SIDE))
        rng = generator(seed, index)
        for question in filter(None, (ask(rng, scene, kind) for kind in _KINDS)):
            inputs.append(_question_input(tokenizer, template, question, index, query_tokens))
    return CalibrationSet(drawn, inputs, seed)


def _question_input(
    tokenizer: Tokenizer, template: Template, question: Question, picture: int, query_tokens: int
) -> TextInput:
    return _input(tokenizer, template, question.prompt, question.answer, question.task, picture, query_tokens)


def _input(
    tokenizer: Tokenizer,
    template: Template,
    question: str,
    answer: str,
    task: str | None,
    picture: int | None,
    query_tokens: int,
) -> TextInput:
    images = 0 if picture is None else 1
    if template.verbatim:
        question, task = ("<ImageHere>" if images else "") + question, None
    prompt = encode_prompt(render(question, images=images, template=template, task=task), tokenizer)
    told = tokenizer.encode(answer + (template.stop[0] if template.stop else ""))
    start = sum(map(len, prompt)) + images * query_tokens  # positions before the answer's first token
    segments = [*prompt[:-1], prompt[-1] + told[:-1]]  # nothing is judged behind the last answer token
    return TextInput(
        segments=tuple(tuple(segment) for segment in segments),
        pictures=() if picture is None else (picture,),
        judged=tuple(range(start - 1, start - 1 + len(told))),
    )
