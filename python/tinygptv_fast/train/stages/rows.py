"""From examples to the rows that the language model reads: texts to ids, the template, what is learnt.

The layout itself is ``reference.layout``, the original's. "inference" leaves BOS out, as prompts have none when a model
answers (NOTES.md of the golden fixtures, trap 24: the original trains with and answers without).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...errors import InvalidArgumentError
from ...processing.prompt import encode_prompt, task_text
from ...processing.templates import IMAGE_MARKUP, Template
from ...processing.tokenizer import Tokenizer
from ...reference.layout import ChatLayout, TrainingBatch
from ...reference.loss import IGNORE
from ...reference.phi import PhiBackbone
from .config import StageConfig
from .examples import Example

END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Row:
    """Ids of one example: ``segments`` around its pictures, and the answer with its labels (IGNORE = not learnt)."""

    example: Example
    segments: list[list[int]]
    ids: list[int]
    labels: list[int]

    @property
    def learnt(self) -> int:
        """Tokens that the loss counts."""
        return sum(label != IGNORE for label in self.labels)

    @property
    def length(self) -> int:
        """Tokens, pictures apart."""
        return len(self.ids) + sum(map(len, self.segments))


class RowMaker:
    """Texts to rows for one config, tokenizer and backbone."""

    def __init__(self, config: StageConfig, tokenizer: Tokenizer, template: Template, backbone: PhiBackbone) -> None:
        """template: the model directory's own, for a config that names none.

        Raises InvalidArgumentError if the layout needs a BOS the tokenizer has not, or no end symbol is known.
        """
        self.config, self.tokenizer = config, tokenizer
        self.template = config.chosen_template(template)
        stops = self.template.stop if self.template is not None else ()
        end = config.end_symbol if config.end_symbol is not None else next(iter(stops), None)
        if end is None:
            raise InvalidArgumentError("end_symbol is null and the template has no stop string, expected a text")
        self.end = end
        bos = tokenizer.token_id(END_OF_TEXT) if config.layout == "original" else None
        if bos is None and config.layout == "original":
            raise InvalidArgumentError(
                f"layout is 'original', but the tokenizer has no {END_OF_TEXT}; expected layout='inference'"
            )
        self.layout = ChatLayout(backbone, bos, bos, config.max_answer, config.max_context)

    def rows(self, examples: Sequence[Example], step: int) -> list[Row]:
        """A row for each example; ``step`` decides which prompt those without a question get."""
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.config.seed, 3, step])))
        count = max(1, len(self.config.prompts))
        drawn = rng.integers(count, size=len(examples))
        if self.config.one_prompt_per_batch:
            drawn[:] = drawn[0]
        return [self.row(example, int(which)) for example, which in zip(examples, drawn, strict=True)]

    def row(self, example: Example, which: int = 0) -> Row:
        """The row of one example; ``which`` of the config's prompts stands in for a missing question."""
        encode = self.tokenizer.encode
        if self.template is None:  # bare: pictures and a caption
            segments: list[list[int]] = [[] for _ in range(len(example.images) + 1)]
            return self._finish(example, segments, [encode(example.turns[0].answer + self.end)], [])
        for turn in example.turns:
            mark = next((stop for stop in self.template.stop if stop in turn.answer), None)
            if mark is not None:
                raise InvalidArgumentError(f"{example.where}: the answer contains {mark!r}, which ends an answer")
        first, *later = [self._asked(example, index, which) for index in range(len(example.turns))]
        answers = [encode(turn.answer + self.end) for turn in example.turns]
        return self._finish(example, encode_prompt(first, self.tokenizer), answers, [encode(text) for text in later])

    def check(self, examples: Sequence[Example], visual_tokens: int) -> None:
        """Make every row once and throw it away: what cannot be a row is known before training starts.

        visual_tokens: rows a picture takes. Raises InvalidArgumentError naming the record.
        """
        room = self.layout.backbone.config.max_positions
        for example in examples:
            row = self.row(example)
            length = 1 + row.length + visual_tokens * len(example.images)
            if length > room:
                raise InvalidArgumentError(f"{example.where}: it takes {length} positions, expected at most {room}")

    def _asked(self, example: Example, index: int, which: int) -> str:
        """A question in its template, pictures in front of the first."""
        template, question = self.template, example.turns[index].question
        assert template is not None
        if question is None:
            if not self.config.prompts:
                raise InvalidArgumentError(f"{example.where}: it has no question and the config has no prompts")
            question = self.config.prompts[which]
        mark = template.reserved_in(question)
        if mark is not None:
            raise InvalidArgumentError(f"{example.where}: the question contains {mark!r}, which the template uses")
        text = task_text(example.task, question)
        pictures = [IMAGE_MARKUP] * len(example.images) if index == 0 else []
        if index == 0:
            return template.render([("user", " ".join([*pictures, text]))])
        suffix = template.image_suffix if example.images else ""
        return "".join([template.user, text, suffix, template.user_end, template.assistant])

    def _finish(
        self, example: Example, segments: list[list[int]], answers: list[list[int]], questions: list[list[int]]
    ) -> Row:
        if len(answers) == 1:
            ids, labels = self.layout.answer(answers[0])
        else:
            ids, labels = self.layout.conversation(answers, questions)
        if all(label == IGNORE for label in labels):
            raise InvalidArgumentError(f"{example.where}: nothing of the answer is left to learn")
        return Row(example, segments, ids, labels)

    def batch(self, rows: Sequence[Row], images: Sequence[Sequence[Tensor]]) -> TrainingBatch:
        """Embeddings, mask and labels; images: visual tokens [NQ, C] of each row's pictures."""
        prompts = [self.layout.prompt(row.segments, seen) for row, seen in zip(rows, images, strict=True)]
        return self.layout.batch(prompts, [(row.ids, row.labels) for row in rows])

    def weights(self, rows: Sequence[Row], labels: Tensor) -> Tensor:
        """f32 [B, T]: how much each label counts, 0 where nothing is learnt."""
        each = [1.0 if self.config.row_weight == "tokens" else row.learnt**-0.5 for row in rows]
        return torch.tensor(each, device=labels.device)[:, None] * (labels != IGNORE)

    def total_weight(self, rows: Sequence[Row]) -> float:
        """The sum of ``weights`` over ``rows``: what the loss is divided by."""
        return sum(row.learnt if self.config.row_weight == "tokens" else row.learnt**0.5 for row in rows)
