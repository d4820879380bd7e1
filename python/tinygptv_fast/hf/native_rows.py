"""Calls of ``generate`` that the engine answers whole: whether one is, and its rows submitted and read to the end.

transformers has merged configurations and built processors and criteria before this is asked, so what decides is what
it built, not what was passed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import TextConfig
from ..engine.native_backend import EngineJob, NativeBackend
from ..errors import CancelledError, ClosedError, TinyGPTVError
from ..protocol import GenerationOptions, Prompt
from .prompts import PromptRows, split_codes
from .stopping import StopStrings

# The engine applies them in this order; transformers does as long as its list has it.
_PENALTIES = ("RepetitionPenaltyLogitsProcessor", "MinLengthLogitsProcessor", "MinNewTokensLengthLogitsProcessor")
_WARPERS = ("TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "MinPLogitsWarper")
_CRITERIA = ("MaxLengthCriteria", "EosTokenCriteria")
_WANTS = ("output_scores", "output_logits", "return_dict_in_generate")
_WAIT_S = 0.1
_MOST_STOPS = 16  # of a request of the engine


@dataclass(frozen=True)
class Call:
    """What transformers hands to its decoding loop. input_ids int64 [B, T]; kwargs: of the forward pass."""

    input_ids: Tensor
    processors: Sequence[Any]
    criteria: Sequence[Any]
    config: Any
    streamer: Any
    kwargs: dict[str, Any]

    @property
    def embeddings(self) -> Tensor | None:
        """float [B, T, C]."""
        return self.kwargs.get("inputs_embeds")

    @property
    def prompt_rows(self) -> PromptRows | None:
        """What the codes of ``embeddings`` stand for, if they are codes."""
        return self.kwargs.get("prompt_rows")

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings."""
        return next((one.stops for one in self.criteria if isinstance(one, StopStrings)), ())

    @property
    def mask(self) -> Tensor:
        """bool [B, T] of the prompt."""
        given = self.kwargs.get("attention_mask")
        if given is not None:
            return given != 0
        prompt = self.input_ids if self.embeddings is None else self.embeddings
        return torch.ones(prompt.shape[:2], dtype=torch.bool)

    def found(self, names: Sequence[str]) -> dict[str, Any]:
        """Processors and criteria of these classes, by the name of their class."""
        both = [*self.processors, *self.criteria]
        return {type(one).__name__: one for one in both if _is_stock(one) and type(one).__name__ in names}

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end a row, as far as they are ids."""
        return _ids(self.found(_CRITERIA).get("EosTokenCriteria"))

    @property
    def max_new_tokens(self) -> int:
        """Of the criterion of length; 0 without one."""
        longest = self.found(_CRITERIA).get("MaxLengthCriteria")
        return 0 if longest is None else int(longest.max_length) - int(self.input_ids.shape[1])


def _is_stock(one: Any) -> bool:
    return type(one).__module__.startswith("transformers.generation.")


def _ids(one: Any) -> tuple[int, ...]:
    ids = getattr(one, "eos_token_id", None)
    return () if ids is None else tuple(int(i) for i in torch.as_tensor(ids).flatten().tolist())


def why_not(call: Call, text: TextConfig, cached: int) -> str | None:
    """Why the engine does not answer this call whole; None if it does. cached: columns in its past_key_values."""
    wanted = [name for name in _WANTS if getattr(call.config, name, None)]
    if wanted:
        return f"{wanted[0]} is set"
    if cached:
        return "past_key_values holds a prefix"
    strange = _strange(call)
    if strange is not None:
        return strange
    if call.max_new_tokens < 1:
        return "nothing bounds the length"
    if not bool(call.mask[:, -1].all()):
        return "padding is on the right"
    if int(call.mask.sum(1).max()) + call.max_new_tokens > text.max_positions:
        return f"prompt and new tokens pass the model's {text.max_positions} positions"
    if any(not 0 <= i < text.vocab_size for i in call.eos_ids):
        return "eos_token_id is no id of the vocabulary"
    if call.streamer is not None and call.input_ids.shape[0] != 1:
        return "a streamer with several rows"
    return None


def _strange(call: Call) -> str | None:
    """A processor or criterion that the engine has not, or has in another order."""
    names = [type(one).__name__ for one in call.processors]
    known = (*_PENALTIES, *_WARPERS) if call.config.do_sample else _PENALTIES
    for one in call.processors:
        if type(one).__name__ not in known or not _is_stock(one):
            return f"the processor {type(one).__name__}"
        eos = _ids(one)
        if eos and set(eos) != set(call.eos_ids):
            return "a minimum length for other ids than eos_token_id"
        if _ignored(one, call) is None:
            return "prompt_ignore_length of the repetition penalty"
        if getattr(one, "min_tokens_to_keep", 1) != 1 or getattr(one, "filter_value", -np.inf) != -np.inf:
            return f"settings of {type(one).__name__}"
    places = [known.index(name) for name in names]
    if places != sorted(set(places)):
        return "processors that are given twice or in another order"
    criteria = [type(one).__name__ for one in call.criteria]
    for one in call.criteria:
        if isinstance(one, StopStrings):
            if len(one.stops) > _MOST_STOPS:
                return f"{len(one.stops)} stop strings"
        elif type(one).__name__ not in _CRITERIA or not _is_stock(one):
            return f"the stopping criterion {type(one).__name__}"
    return "stopping criteria that are given twice" if len(set(criteria)) < len(criteria) else None


def _ignored(penalty: Any, call: Call) -> list[int] | None:
    """How many ids at the start of each row a repetition penalty does not see; None if it is no such number."""
    rows, columns = call.input_ids.shape
    given = getattr(penalty, "prompt_ignore_length", None)
    counts = [given or 0] * rows if given is None or isinstance(given, int) else torch.as_tensor(given).tolist()
    fits = len(counts) == rows and all(0 <= count <= columns for count in counts)
    return [int(count) for count in counts] if fits else None


def _histories(call: Call) -> list[tuple[int, ...]]:
    """The ids of each row that the penalty sees before the generated ones; as in transformers, padding counts."""
    penalty = call.found(_PENALTIES).get(_PENALTIES[0])
    ignored = _ignored(penalty, call) or [0] * call.input_ids.shape[0]
    return [tuple(row[count:]) for row, count in zip(call.input_ids.tolist(), ignored, strict=True)]


def options_of(call: Call, history: tuple[int, ...], seed: int) -> GenerationOptions:
    """The engine's settings of one row. history: the ids that the repetition penalty sees before the generated ones."""
    found = call.found((*_PENALTIES, *_WARPERS))
    value = {name: getattr(found.get(owner), field, None) for name, owner, field in _FIELDS}
    columns = int(call.input_ids.shape[1])
    least = max((value["min_length"] or 0) - columns, value["min_new_tokens"] or 0, 0)
    skipped = value["prompt_length_to_skip"]
    if skipped is not None:  # counted from there, which is the prompt's end
        least = max(least, value["min_new_tokens"] + skipped - columns)
    return GenerationOptions(
        max_new_tokens=call.max_new_tokens,
        min_length=len(history) + least,
        do_sample=bool(call.config.do_sample),
        temperature=1.0 if value["temperature"] is None else float(value["temperature"]),
        top_k=value["top_k"],
        top_p=value["top_p"],
        min_p=value["min_p"],
        repetition_penalty=1.0 if value["penalty"] is None else float(value["penalty"]),
        eos_ids=call.eos_ids,
        prefix_ids=history,
        seed=seed,
    )


_FIELDS = (
    ("penalty", _PENALTIES[0], "penalty"),
    ("min_length", _PENALTIES[1], "min_length"),
    ("min_new_tokens", _PENALTIES[2], "min_new_tokens"),
    ("prompt_length_to_skip", _PENALTIES[2], "prompt_length_to_skip"),
    ("temperature", _WARPERS[0], "temperature"),
    ("top_k", _WARPERS[1], "top_k"),
    ("top_p", _WARPERS[2], "top_p"),
    ("min_p", _WARPERS[3], "min_p"),
)


def answer(call: Call, backend: NativeBackend) -> Tensor:
    """input_ids and what was generated behind them, int64 [B, n]; shorter rows are padded as transformers does."""
    streamer = call.streamer
    put = None if streamer is None else lambda token: streamer.put(torch.tensor([token]))
    generated = _read(backend, _work(call), call.stops, put)
    if streamer is not None:
        streamer.end()
    return _behind(call.input_ids, generated, pad_id(call.config, call.eos_ids))


def answer_beams(call: Call, backend: NativeBackend) -> Tensor:
    """The best hypotheses of each prompt behind its input_ids, int64 [B * returned, n]. call: num_beams rows for each
    prompt, as transformers repeats them."""
    beams, returned = int(call.config.num_beams), int(call.config.num_return_sequences or 1)
    histories = _histories(call)
    jobs, found = [], []
    try:
        for row in range(0, int(call.input_ids.shape[0]), beams):
            options = replace(
                options_of(call, histories[row], 0),
                num_beams=beams,
                num_return_sequences=returned,
                length_penalty=float(call.config.length_penalty),
                pad_id=pad_id(call.config, call.eos_ids),
            )
            jobs.append(backend.submit_beams(_prompt(call, row), options, None))
        for job in jobs:
            found += _read_beams(job, backend)
    finally:
        for job in jobs:
            job.drain()
    return _behind(call.input_ids[::beams].repeat_interleave(returned, 0), found, pad_id(call.config, call.eos_ids))


def _read_beams(job: EngineJob, backend: NativeBackend) -> list[list[int]]:
    found: list[list[int]] = []
    while not job.over:
        for event in job.poll(_WAIT_S):
            if event[0] == "beam":
                found.append(list(event[2]))
            elif event[0] == "end":
                _check_end(event[2], event[3], backend)
    return found


def _behind(input_ids: Tensor, generated: Sequence[list[int]], pad: int) -> Tensor:
    """input_ids [B, T] and rows of ids, padded to the longest."""
    longest = max(map(len, generated))
    padded = [ids + [pad] * (longest - len(ids)) for ids in generated]
    return torch.cat([input_ids, torch.tensor(padded, dtype=input_ids.dtype)], dim=1)


@dataclass(frozen=True)
class _Work:
    """One request of the engine, for these rows of the batch."""

    prompt: Prompt
    options: GenerationOptions
    rows: tuple[int, ...]


def _work(call: Call) -> list[_Work]:
    """A request for each row; where the caller gave a seed, one for each prompt with its samples, as ``TinyGPTV`` asks
    for them."""
    count, given = int(call.input_ids.shape[0]), call.prompt_rows
    histories = _histories(call)
    if call.config.do_sample and given is not None and given.seed is not None:
        heads = range(0, count, given.samples)
        seeds = dict.fromkeys(heads, given.seed)
    else:
        heads = range(count)
        seeds = dict.fromkeys(heads, 0)
        if call.config.do_sample:  # of torch's own generator, so that torch.manual_seed repeats them
            seeds = dict(enumerate(torch.randint(0, 2**63 - 1, (count,), dtype=torch.int64).tolist()))
    step = heads.step
    work = []
    for row in heads:
        options = replace(options_of(call, histories[row], seeds[row]), num_return_sequences=step)
        work.append(_Work(_prompt(call, row), options, tuple(range(row, row + step))))
    return work


def _prompt(call: Call, row: int) -> Prompt:
    mask = call.mask[row]
    if call.embeddings is None:
        return Prompt(call.input_ids[row][mask].to(torch.int32).numpy(), None)
    if call.prompt_rows is not None:
        ids, visual = split_codes(call.embeddings[row, :, 0][mask], call.prompt_rows)
        return Prompt(ids.to(torch.int32).numpy(), visual)
    vectors = call.embeddings[row][mask].detach().float().contiguous().numpy()
    return Prompt(np.full(len(vectors), -1, dtype=np.int32), vectors)


def pad_id(config: Any, eos_ids: Sequence[int] = ()) -> int:
    """What follows the end of a row; transformers has settled it where rows can end."""
    for value in (getattr(config, "_pad_token_tensor", None), config.pad_token_id):
        if value is not None:
            return int(value)
    return eos_ids[0] if eos_ids else 0


def _read(
    backend: NativeBackend, work: Sequence[_Work], stops: Sequence[str], put: Callable[[int], Any] | None
) -> list[list[int]]:
    """Ids of each row. Whatever interrupts it cancels what runs and waits for its end."""
    generated: list[list[int]] = [[] for one in work for _ in one.rows]
    waiting = deque(range(len(work)))
    running: dict[int, EngineJob] = {}
    try:
        while waiting or running:
            while waiting and len(running) < backend.parallel:
                index = waiting.popleft()
                running[index] = backend.submit(work[index].prompt, work[index].options, stops, None)
            timeout = _WAIT_S  # for the first; by then the others have something, or it is their turn soon
            for index, job in list(running.items()):
                for event in job.poll(timeout):
                    if event[0] == "token":
                        generated[work[index].rows[event[1]]].append(int(event[2]))
                        if put is not None:
                            put(int(event[2]))
                    elif event[0] == "end":
                        _check_end(event[2], event[3], backend)
                if job.over:
                    del running[index]
                timeout = 0.0
    finally:
        for job in running.values():
            job.cancel()
        for job in running.values():
            job.drain()
    return generated


def _check_end(reason: str, message: str, backend: NativeBackend) -> None:
    if reason == "error":
        raise TinyGPTVError(f"generation ended with an error: {message}")
    if reason == "cancelled":
        raise ClosedError("the model was closed") if backend.closed else CancelledError("it was cancelled")
