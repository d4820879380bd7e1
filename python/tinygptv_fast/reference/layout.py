"""How the original lays out a training row: BOS, prompt with pictures, answer, padding (minigpt_base.py).

Knows token ids and embeddings, not text: callers tokenise. Quirks kept because published weights were trained with
them: positions count through padding and mask holes, and the BOS in front of every later question of a conversation
is masked because BOS and pad share one id (minigpt_base.py:207).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InvalidArgumentError
from .loss import IGNORE
from .phi import PhiBackbone


@dataclass(frozen=True)
class TrainingBatch:
    """inputs_embeds [B, T, C], attention_mask int64 [B, T], labels int64 [B, T] (-100 = not learnt)."""

    inputs_embeds: Tensor
    attention_mask: Tensor
    labels: Tensor


@dataclass(frozen=True)
class ChatLayout:
    """Builds batches for one backbone.

    bos_id is prepended to every row, None prepends nothing (what inference does); pad_id marks padding in answers
    (equal to bos_id in the original), None when every id of an answer is meant; max_answer counts the end symbol, so a
    cut answer has none; max_context cuts prompt embeddings before BOS.
    """

    backbone: PhiBackbone
    bos_id: int | None
    pad_id: int | None
    max_answer: int = 160
    max_context: int = 3800

    def prompt(self, segments: Sequence[Sequence[int]], images: Sequence[Tensor]) -> Tensor:
        """Interleave token segments and pictures: seg0 img0 seg1 img1 ... segN → [T, C].

        segments are ids of the text around each picture (len(images) + 1 of them), images are [NQ, C]. Raises
        InvalidArgumentError if the counts do not fit.
        """
        if len(segments) != len(images) + 1:
            raise InvalidArgumentError(f"images has {len(images)} entries, expected {len(segments) - 1} placeholders")
        parts = []
        for index, ids in enumerate(segments):
            parts.append(self._embed(ids))
            if index < len(images):
                parts.append(images[index])
        return torch.cat(parts)[: self.max_context]

    def answer(self, ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """(ids, labels) of a single answer, end symbol included by the caller; cut to max_answer."""
        cut = list(ids)[: self.max_answer]
        return cut, [IGNORE if i == self.pad_id else i for i in cut]

    def conversation(
        self, answers: Sequence[Sequence[int]], questions: Sequence[Sequence[int]]
    ) -> tuple[list[int], list[int]]:
        """(ids, labels) of answer0 BOS question1 answer1 ...; ``questions`` are those after the first."""
        ids: list[int] = list(answers[0])
        labels: list[int] = list(answers[0])
        for question, answer in zip(questions, answers[1:], strict=True):
            asked = [*self._bos, *question]
            ids += [*asked, *answer]
            labels += [IGNORE] * len(asked) + list(answer)
        return ids[: self.max_answer], labels[: self.max_answer]

    def batch(self, prompts: Sequence[Tensor], answers: Sequence[tuple[list[int], list[int]]]) -> TrainingBatch:
        """Rows of [BOS, prompt, answer], padded on the right with the pad token's embedding.

        prompts are [T_i, C] (possibly [0, C]); answers are (ids, labels) pairs. Padding is masked, and so is every
        pad id inside an answer.
        """
        longest_answer = max(len(ids) for ids, _ in answers)
        longest_prompt = max(p.shape[0] for p in prompts)
        total = len(self._bos) + longest_prompt + longest_answer
        rows = [self._row(p, ids, labels, total) for p, (ids, labels) in zip(prompts, answers, strict=True)]
        embeds, masks, labels = (torch.stack(column) for column in zip(*rows, strict=True))
        return TrainingBatch(embeds, masks, labels)

    @property
    def _bos(self) -> list[int]:
        return [] if self.bos_id is None else [self.bos_id]

    def _row(self, prompt: Tensor, ids: list[int], labels: list[int], total: int) -> tuple[Tensor, Tensor, Tensor]:
        head = len(self._bos) + prompt.shape[0]
        tail = total - head - len(ids)
        pad = self._embed([self.pad_id or 0] * tail)
        embeds = torch.cat([self._embed(self._bos), prompt, self._embed(ids), pad])
        mask = [1] * head + [int(i != self.pad_id) for i in ids] + [0] * tail
        target = [IGNORE] * head + labels + [IGNORE] * tail
        device = embeds.device
        return embeds, torch.tensor(mask, device=device), torch.tensor(target, device=device)

    def _embed(self, ids: Sequence[int]) -> Tensor:
        table = self.backbone.embed.weight
        return self.backbone.embed(torch.tensor(list(ids), dtype=torch.int64, device=table.device))
