"""Beam search with length penalty, in the arithmetic of transformers 4.36's BeamSearchScorer.

A finished hypothesis scores sum(logprob) / n^length_penalty, n the generated ids with EOS. A row is done when it has
``num_beams`` finished hypotheses and the best running beam, scored at its present length, cannot beat the worst of
them (``early_stopping=False``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import InvalidArgumentError
from .generation import Constrain, GenerationOptions, GenerationResult, extend_mask, process
from .phi import KVCache, PhiBackbone

_NEVER = -1e9  # start score of all beams but the first, so that step 0 does not pick one token num_beams times


@dataclass
class _Hypotheses:
    """The finished hypotheses of one input row, best ``size`` kept."""

    size: int
    length_penalty: float
    done: bool = False
    kept: list[tuple[float, list[int]]] = field(default_factory=list)

    @property
    def worst(self) -> float:
        return min((score for score, _ in self.kept), default=1e9)

    def add(self, ids: list[int], log_probability: float, length: int) -> None:
        score = log_probability / length**self.length_penalty
        if len(self.kept) < self.size or score > self.worst:
            self.kept.append((score, ids))
            if len(self.kept) > self.size:
                self.kept.remove(min(self.kept, key=lambda item: item[0]))

    def close_if_hopeless(self, best_log_probability: float, length: int) -> None:
        full = len(self.kept) >= self.size
        self.done = self.done or (full and self.worst >= best_log_probability / length**self.length_penalty)


def beam_search(
    backbone: PhiBackbone,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    options: GenerationOptions,
    constrain: Constrain | None = None,
) -> GenerationResult:
    """Beam search over rows [B, T, C]. Returns ``num_return_sequences`` rows per input, best first, with scores."""
    beams = options.num_beams
    if options.num_return_sequences > beams:
        raise InvalidArgumentError(
            f"num_return_sequences is {options.num_return_sequences}, expected <= num_beams={beams}"
        )
    return _BeamSearch(backbone, inputs_embeds, attention_mask, options, constrain).run()


class _BeamSearch:
    def __init__(
        self,
        backbone: PhiBackbone,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        options: GenerationOptions,
        constrain: Constrain | None,
    ) -> None:
        self.backbone, self.options, self.beams = backbone, options, options.num_beams
        self.constrain = constrain
        self.batch, device = inputs_embeds.shape[0], inputs_embeds.device
        self.rows = self.batch * self.beams
        self.embeds = inputs_embeds.repeat_interleave(self.beams, dim=0)
        self.mask = None if attention_mask is None else attention_mask.repeat_interleave(self.beams, dim=0)
        self.cache = KVCache(backbone.config.layers)
        prefix = torch.tensor(options.prefix_ids, dtype=torch.int64, device=device)
        self.seen = prefix.expand(self.rows, -1)
        self.scores = torch.full((self.batch, self.beams), _NEVER, device=device)
        self.scores[:, 0] = 0.0
        self.scores = self.scores.view(-1)
        self.found = [_Hypotheses(self.beams, options.length_penalty) for _ in range(self.batch)]

    def run(self) -> GenerationResult:
        for index in range(self.options.max_new_tokens):
            hidden = self.backbone(self.embeds, self.mask, self.cache)
            log_probabilities = self.backbone.logits(hidden[:, -1]).log_softmax(-1)
            log_probabilities = process(log_probabilities, self.seen, self.options)
            if self.constrain is not None:
                generated = self.seen[:, len(self.options.prefix_ids) :]
                log_probabilities = self.constrain(log_probabilities, generated, self.options.max_new_tokens - index)
            self._advance(log_probabilities, length=index + 1)
            if all(row.done for row in self.found):
                break
            self.embeds = self.backbone.embed(self.seen[:, -1:])
            self.mask = extend_mask(self.mask, self.rows)
        return self._finish()

    def _advance(self, log_probabilities: Tensor, length: int) -> None:
        """One step: the 2·beams best continuations of each row become finished hypotheses or running beams."""
        V = log_probabilities.shape[-1]
        total = (log_probabilities + self.scores[:, None]).view(self.batch, self.beams * V)
        candidates = max(2, 1 + len(self.options.eos_ids)) * self.beams
        best, where = total.topk(candidates, dim=1, largest=True, sorted=True)
        picks = [self._pick(row, best[row], where[row], V, length) for row in range(self.batch)]
        flat = [pick for row in picks for pick in row]
        device = self.scores.device
        self.scores = torch.tensor([score for score, _, _ in flat], device=device)
        tokens = torch.tensor([token for _, token, _ in flat], dtype=torch.int64, device=device)
        parents = torch.tensor([parent for _, _, parent in flat], dtype=torch.int64, device=device)
        self.seen = torch.cat([self.seen[parents], tokens[:, None]], dim=1)
        self.cache.select(parents)
        if self.mask is not None:
            self.mask = self.mask[parents]

    def _pick(self, row: int, best: Tensor, where: Tensor, V: int, length: int) -> list[tuple[float, int, int]]:
        """The next (score, token, parent row) of each beam of ``row``; records hypotheses that end here."""
        first = row * self.beams
        if self.found[row].done:
            return [(0.0, self.options.pad_id, first)] * self.beams
        running: list[tuple[float, int, int]] = []
        for rank, (score, position) in enumerate(zip(best.tolist(), where.tolist(), strict=True)):
            parent, token = first + position // V, position % V
            if token not in self.options.eos_ids:
                running.append((score, token, parent))
            elif rank < self.beams:
                self.found[row].add([*self._generated(parent), token], score, length)
            if len(running) == self.beams:
                break
        self.found[row].close_if_hopeless(float(best.max()), length)
        return running

    def _generated(self, row: int) -> list[int]:
        return self.seen[row, len(self.options.prefix_ids) :].tolist()

    def _finish(self) -> GenerationResult:
        ids: list[list[int]] = []
        scores: list[float] = []
        for row, hypotheses in enumerate(self.found):
            if not hypotheses.done:
                for beam in range(row * self.beams, (row + 1) * self.beams):
                    generated = self._generated(beam)
                    hypotheses.add(generated, float(self.scores[beam]), len(generated))
            ranked = sorted(hypotheses.kept, key=lambda item: item[0], reverse=True)
            if self.constrain is not None:  # beams that a grammar left no continuation
                ranked = [one for one in ranked if one[0] > float("-inf")]
            for score, generated in ranked[: self.options.num_return_sequences]:
                ids.append(generated)
                scores.append(score)
        return GenerationResult(ids, scores)
