"""Questions as rows of token ids, about a scene in words or about a picture's cached rows; their loss; quick marks.

Written as ``train.stages`` writes them and as the model will be asked: template "train-stage4", no BOS. Where a picture
would stand between its marks, a scene in words may stand instead: what the language model learns there carries over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ...data.bpe import END
from ...data.question import Question, Turn
from ...data.world.scoring import is_right
from ...data.world_vocabulary import TEMPLATE
from ...processing.prompt import encode_prompt, task_text
from ...processing.templates import IMAGE_MARKUP, get_template
from ...processing.tokenizer import Tokenizer
from ...reference.loss import IGNORE
from ...reference.phi import PhiBackbone
from ..coordinates import blurred_cross_entropy, find_coordinates, mark_tokens, number_tokens
from ..shapes import TOKENS, padded, up

SIGMA = 1.0  # standard deviation of a coordinate's label, in hundredths of the side
_MOST = 400  # tokens of a row; further questions about its scene are left out
UNTAGGED = 0.25  # of plain questions come without their tag, as users may write them


def tagged(turn: Turn, keep: bool = True) -> str:
    """The question as it is put; plain ones without their tag unless ``keep``."""
    return task_text(turn.task, turn.prompt) if keep or turn.task != "vqa" else turn.prompt


def turns_of(question: Question) -> list[Turn]:
    """The earlier turns and the question itself."""
    return [*question.history, Turn(question.task, question.prompt, question.answer)]


@dataclass(frozen=True)
class Conversation:
    """Questions about one scene. ``scene``: its text, or None where ``picture`` (an index into the batch's visual rows)
    is looked at. ``keep``: for each question, whether a plain one has its tag."""

    questions: tuple[Question, ...]
    keep: tuple[bool, ...]
    scene: str | None = None
    picture: int = -1


@dataclass(frozen=True)
class Rows:
    """ids int64 [B, T], any value in picture slots and padding; slots bool [B, T]; pictures int64 [rows with slots], in
    row order; labels int64 [B, T]: the token that should follow, IGNORE where nothing is learnt; coordinate bool [B,
    T]; weight f32 [B, T]: 1/sqrt(tokens of the answer)."""

    ids: Tensor
    slots: Tensor
    pictures: Tensor
    labels: Tensor
    coordinate: Tensor
    weight: Tensor

    def to(self, device: torch.device) -> Rows:
        return Rows(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


class RowWriter:
    """Conversations → rows, for one tokenizer and ``queries`` rows a picture."""

    def __init__(self, tokenizer: Tokenizer, queries: int) -> None:
        self.tokenizer, self.queries = tokenizer, queries
        self.template = get_template(TEMPLATE)
        self.numbers = torch.tensor(number_tokens(tokenizer))
        self._marks = torch.tensor(mark_tokens(tokenizer))
        end = tokenizer.token_id(END)
        assert end is not None
        self.end = end

    def write(self, conversations: Sequence[Conversation], buckets: int = 1) -> list[Rows]:
        """Rows sorted by length into ``buckets`` parts, so that short ones are not padded to long ones."""
        encoded = sorted((self._encode(c) for c in conversations), key=lambda row: len(row[0]))
        size = -(-len(encoded) // buckets)
        return [self._pad(encoded[start : start + size]) for start in range(0, len(encoded), size)]

    def order(self, conversations: Sequence[Conversation]) -> list[int]:
        """Which conversation stands in each row of ``write``."""
        return sorted(range(len(conversations)), key=lambda i: len(self._encode(conversations[i])[0]))

    def _encode(self, conversation: Conversation) -> tuple[list[int], int, list[tuple[int, int]], int]:
        """(ids, where the picture begins or -1, (start, end) of each answer, index of the picture)."""
        encode, template = self.tokenizer.encode, self.template
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        slot = -1
        for question, keep in zip(conversation.questions, conversation.keep, strict=True):
            whole = len(ids)
            for turn in turns_of(question):
                text = tagged(turn, keep or bool(question.history))
                if not ids:
                    before, after = encode_prompt(template.render([("user", f"{IMAGE_MARKUP} {text}")]), self.tokenizer)
                    ids += before
                    if conversation.scene is None:
                        slot = len(ids)
                        ids += [self.end] * self.queries
                    else:
                        ids += encode(conversation.scene)
                    ids += after
                else:
                    asked = [template.user, text, template.image_suffix, template.user_end, template.assistant]
                    ids += encode("".join(asked))
                answer = encode(turn.answer + END)
                spans.append((len(ids), len(ids) + len(answer)))
                ids += answer
            if len(ids) > _MOST and whole:
                spans = [span for span in spans if span[1] <= whole]
                del ids[whole:]
                break
        return ids, slot, spans, conversation.picture

    def _pad(self, encoded: Sequence[tuple[list[int], int, list[tuple[int, int]], int]]) -> Rows:
        T = up(max(len(row[0]) for row in encoded) - 1, TOKENS)
        ids = np.full((len(encoded), T), self.end, dtype=np.int64)
        labels = np.full((len(encoded), T), IGNORE, dtype=np.int64)
        slots = np.zeros((len(encoded), T), dtype=bool)
        weight = np.zeros((len(encoded), T), dtype=np.float32)
        for at, (row, slot, spans, _) in enumerate(encoded):
            ids[at, : len(row) - 1] = row[:-1]
            if slot >= 0:
                slots[at, slot : slot + self.queries] = True
            for start, end in spans:
                labels[at, start - 1 : end - 1] = row[start:end]
                weight[at, start - 1 : end - 1] = (end - start) ** -0.5
        learnt = torch.from_numpy(labels)
        before = torch.cat([torch.full((len(encoded), 1), IGNORE), learnt[:, :-1]], dim=1)
        coordinate = find_coordinates(learnt, before, self.numbers, self._marks)
        pictures = torch.tensor([row[3] for row in encoded if row[1] >= 0], dtype=torch.int64)
        return Rows(
            torch.from_numpy(ids), torch.from_numpy(slots), pictures, learnt, coordinate, torch.from_numpy(weight)
        )


def embed_rows(text: PhiBackbone, projector: nn.Module | None, visual: Tensor | None, rows: Rows) -> Tensor:
    """[B, T, C]: token embeddings, with ``projector``'s map of ``visual`` [P, NQ, Q] in the slots."""
    embeds = text.embed(rows.ids)
    if projector is None or visual is None or not len(rows.pictures):
        return embeds
    seen = projector(visual)[rows.pictures].flatten(0, 1).to(embeds.dtype)
    return embeds.masked_scatter(rows.slots[..., None], seen)


def answer_logits(text: PhiBackbone, projector: nn.Module | None, visual: Tensor | None, rows: Rows) -> Tensor:
    """f32 [learnt tokens, V], row by row. Padding stands behind every answer, where causal attention never looks."""
    hidden = text(embed_rows(text, projector, visual, rows))
    learnt = hidden[rows.labels != IGNORE]
    return text.logits(padded(learnt))[: len(learnt)]


def answer_loss(logits: Tensor, rows: Rows, numbers: Tensor, sigma: float = SIGMA) -> Tensor:
    """Sum of weight · cross-entropy over ``answer_logits``; coordinates against blurred labels."""
    learnt = rows.labels != IGNORE
    losses = blurred_cross_entropy(logits, rows.labels[learnt], rows.coordinate[learnt], numbers, sigma)
    return losses @ rows.weight[learnt]


@torch.no_grad()
def quick_marks(
    writer: RowWriter,
    text: PhiBackbone,
    projector: nn.Module | None,
    visual: Tensor | None,
    conversations: Sequence[Conversation],
    batch: int = 64,
) -> dict[str, float]:
    """Share of right answers by kind, each token predicted behind the *true* ones before it: for words that is what
    greedy decoding gets right; boxes are scored as written. One question a conversation, without history."""
    device = text.embed.weight.device
    right: dict[str, list[bool]] = {}
    for start in range(0, len(conversations), batch):
        part = conversations[start : start + batch]
        rows = writer.write([replace(c, picture=c.picture - start) if c.scene is None else c for c in part])[0]
        order = writer.order(part)
        seen = None if visual is None else visual[start : start + batch].to(device)
        said = answer_logits(text, projector, seen, rows.to(device)).argmax(-1).cpu()
        counts = (rows.labels != IGNORE).sum(1).tolist()
        for index, ids in zip(order, said.split(counts), strict=True):
            question = part[index].questions[0]
            answer = writer.tokenizer.decode([i for i in ids.tolist() if i != writer.end])
            right.setdefault(question.kind, []).append(is_right(question, answer))
    return {kind: round(sum(marks) / len(marks), 4) for kind, marks in right.items()}
