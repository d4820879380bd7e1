"""The original's model object (minigpt4/models/minigpt_base.py): ``generate``, ``multi_select``, ``encode_img``.

Its arguments and defaults, on the native engine. Its bugs are fixed unless ``quirks=True`` asks for them; each is named
where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgumentError, TinyGPTVError
from .pictures import batch, encode, processor_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..generate.answer import Answer
    from ..generate.model import TinyGPTV

SEPARATOR = "###"
HIDDEN_TOP_K = 50
"""transformers' default, which applies to every sampled answer of the original though nobody sets it."""

END_SYMBOL = "\n"
"""What ends a candidate in the losses that ``multi_select`` ranks by."""


@dataclass(frozen=True)
class Sampling:
    """The original's decoding arguments in this package's terms."""

    num_beams: int
    max_new_tokens: int
    min_length: int
    top_p: float
    repetition_penalty: float
    length_penalty: float
    temperature: float
    do_sample: bool
    top_k: int | None = HIDDEN_TOP_K
    seed: int | None = None

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of ``TinyGPTV.generate``. Without sampling, filters have no effect, as in the original."""
        out: dict[str, Any] = {
            "template": "raw",
            "num_beams": self.num_beams,
            "max_new_tokens": self.max_new_tokens,
            "min_length": self.min_length,
            "repetition_penalty": float(self.repetition_penalty),
            "length_penalty": float(self.length_penalty),
        }
        if self.do_sample:
            out |= {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
            out["seed"] = self.seed
        return out


class OriginalModel:
    """What the original's evaluation scripts call ``model``, over a loaded ``TinyGPTV``.

    quirks: keep what the original does wrong. An answer runs on past "###" until its tokens are used up, text is
    decoded with the slow tokenizer's spaces, and ``multi_select`` ranks a batch by its mean.
    """

    def __init__(self, model: TinyGPTV, *, quirks: bool = False) -> None:
        self.model = model
        self.quirks = quirks

    def vis_processor(self, image: Any) -> Tensor:
        """The original's evaluation pixels of ``image``: float32 [3, S, S]. Takes every kind of picture; the original
        fails on those with alpha or in grey."""
        return processor_of(self.model).pixels(image)

    def encode_img(self, images: Any) -> tuple[Tensor, Tensor]:
        """Visual tokens float32 [B, NQ, C] and a mask of ones int64 [B, NQ], of a tensor [B, 3, S, S] or a list."""
        import torch

        rows = torch.stack([encode(self.model, image).embeddings for image in batch(images)])
        return rows, torch.ones(rows.shape[:2], dtype=torch.int64)

    def generate(
        self,
        images: Any,
        texts: Sequence[str],
        num_beams: int = 1,
        max_new_tokens: int = 20,
        min_length: int = 1,
        top_p: float = 0.9,
        repetition_penalty: float = 1,
        length_penalty: float = 1,
        temperature: float = 1,
        do_sample: bool = False,
        stop_words_ids: Sequence[int] | None = None,
        *,
        eos_token_id: int | Sequence[int] | None = None,
        seed: int | None = None,
    ) -> list[str]:
        """One answer per picture and text; the texts are whole prompts, each with one ``<ImageHere>``.

        ``stop_words_ids`` is accepted and, as in the original, has no effect. ``eos_token_id`` and ``seed`` are ours.
        Raises what ``TinyGPTV.generate_batch`` raises, and InvalidArgumentError for lists of different length.
        """
        del stop_words_ids
        pictures, prompts = batch(images), _texts("texts", texts)
        _same_length("texts", prompts, pictures)
        sampling = Sampling(
            num_beams, max_new_tokens, min_length, top_p, repetition_penalty, length_penalty, temperature, do_sample,
            seed=seed,
        )  # fmt: skip
        shared = {**sampling.settings(), **self._ends(eos_token_id)}
        states = [encode(self.model, picture) for picture in pictures]
        requests = [{"image": state, "prompt": text, **shared} for state, text in zip(states, prompts, strict=True)]
        return [self._text(_answered(answer)) for answer in self.model.generate_batch(requests)]

    def multi_select(
        self,
        images: Any,
        texts: Sequence[str],
        answers: Sequence[Sequence[str]],
        num_cand: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """For each row the candidates by their loss, the best first: ``answers[c][row]`` is candidate ``c`` of ``row``.

        ``num_cand``: how many of a row's candidates count; the others follow behind. With ``quirks`` there is one
        ranking for all rows, by the mean loss of the batch, and ``num_cand[0]`` counts for it.
        """
        pictures, prompts = batch(images), _texts("texts", texts)
        _same_length("texts", prompts, pictures)
        if isinstance(answers, (str, bytes)) or not isinstance(answers, Sequence):
            raise InvalidArgumentError(f"answers is {type(answers).__name__}, expected a list of lists of strings")
        candidates = [_texts(f"answers[{index}]", row) for index, row in enumerate(answers)]
        for index, candidate in enumerate(candidates):
            _same_length(f"answers[{index}]", candidate, pictures)
        if not candidates or not pictures:
            raise InvalidArgumentError("answers or images is empty, expected at least one candidate and one picture")
        counts = [len(candidates)] * len(pictures) if num_cand is None else list(num_cand)
        _same_length("num_cand", counts, pictures)
        begin = training_begin(self.model)
        rows = []
        for row, (picture, text) in enumerate(zip(pictures, prompts, strict=True)):
            ends = [candidate[row] + END_SYMBOL for candidate in candidates]
            rows.append(self._logprobs(encode(self.model, picture), begin + text, ends))
        if self.quirks:
            rows = [[[lp for row in rows for lp in row[index]] for index in range(len(candidates))]]
        return [_ranking(row, counts[index]) for index, row in enumerate(rows)]

    def _logprobs(self, picture: Any, prompt: str, candidates: list[str]) -> list[list[float]]:
        """Log-probabilities of each candidate's tokens, in the order given."""
        best = self.model.generate(picture, prompt, template="raw", choices=list(dict.fromkeys(candidates)))
        found = {answer.text: answer.logprobs for answer in [best, *best.alternatives]}
        return [found[candidate] for candidate in candidates]

    def _ends(self, eos_token_id: int | Sequence[int] | None) -> dict[str, Any]:
        if self.quirks:
            return {"eos_token_id": eos_token_id}
        return {"eos_token_id": eos_token_id, "stop": [SEPARATOR]}

    def _text(self, answer: Answer) -> str:
        text = self.model.tokenizer.decode_slow(answer.token_ids) if self.quirks else answer.text
        return clean_generated(text)


def clean_generated(text: str) -> str:
    """What the original's ``generate`` makes of a decoded answer (minigpt_base.py): up to '</s>', behind '[/INST]'."""
    return text.split("</s>")[0].replace("<s>", "").split("[/INST]")[-1].strip()


def training_begin(model: TinyGPTV) -> str:
    """The BOS that the original's training layout, used for losses, puts before every row; "" without one."""
    bos = model.config.bos_token_id
    return "" if bos is None else model.tokenizer.decode([bos], skip_special_tokens=False)


def _ranking(losses_of: list[list[float]], count: int) -> list[int]:
    """Candidates by mean negative log-probability; those from ``count`` on come behind."""
    means = [-sum(lps) / len(lps) for lps in losses_of]
    return sorted(range(len(means)), key=lambda index: (index >= count, means[index] if index < count else 0.0))


def _answered(answer: Answer | Exception) -> Answer:
    if isinstance(answer, Exception):  # never with on_error="raise"
        raise TinyGPTVError(str(answer)) from answer
    return answer


def _texts(name: str, given: Any) -> list[str]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence) or not all(isinstance(t, str) for t in given):
        raise InvalidArgumentError(f"{name} is {str(given)[:60]!r}, expected a list of strings")
    return list(given)


def _same_length(name: str, given: Sequence[Any], pictures: Sequence[Any]) -> None:
    if len(given) != len(pictures):
        raise InvalidArgumentError(f"{name} has {len(given)} entries with {len(pictures)} images, expected as many")
