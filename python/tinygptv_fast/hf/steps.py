"""Steps of transformers' ``generate`` for a model that is ours altogether: ids are those of ``TinyGPTV.generate``.

Where transformers and ``TinyGPTV`` differ (stop strings, the history of a penalty, the arithmetic of beams), a prompt
of ours is decoded as ``TinyGPTV`` does it; embeddings of the caller's own as transformers does.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor

from ..errors import UnsupportedError
from ..processing.tokenizer import Tokenizer
from . import native_rows
from .decoding import LOOP, NATIVE, NativeDecoding
from .stopping import StopStrings

# What stands before the repetition penalty in transformers' order.
_BEFORE_PENALTY = (
    "UnbatchedClassifierFreeGuidanceLogitsProcessor",
    "SequenceBiasLogitsProcessor",
    "HammingDiversityLogitsProcessor",
    "EncoderRepetitionPenaltyLogitsProcessor",
)


class OwnDecoding(NativeDecoding):
    """``words``: the model's tokenizer. ``prefix_columns``: of what transformers takes for the prompt, the BOS that is
    never fed. ``max_sequences``: that the engine runs side by side."""

    words: Tokenizer
    prefix_columns: int
    max_sequences: int

    def _get_stopping_criteria(
        self, generation_config: Any, stopping_criteria: Any, tokenizer: Any = None, **kwargs: Any
    ) -> Any:
        """Stop strings by our tokenizer; those of the model are added to those of the call."""
        stops = [*_texts(generation_config.stop_strings), *_texts(self.generation_config.stop_strings)]
        generation_config.stop_strings = None
        made = super()._get_stopping_criteria(  # type: ignore[misc]  # of the mixin of transformers
            generation_config=generation_config, stopping_criteria=stopping_criteria, tokenizer=tokenizer, **kwargs
        )
        if stops:
            eos = generation_config.eos_token_id
            ids = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
            made.append(StopStrings(list(dict.fromkeys(stops)), self.words, skip=self.prefix_columns, eos_ids=ids))
        return made

    def _get_logits_processor(self, generation_config: Any, *args: Any, **kwargs: Any) -> Any:
        """The repetition penalty sees all generated ids. transformers 5 would leave as many of them out as the row has
        padding, because it takes them for the prompt's."""
        penalty = generation_config.repetition_penalty
        rest = copy.copy(generation_config)
        rest.repetition_penalty = None
        made = super()._get_logits_processor(rest, *args, **kwargs)  # type: ignore[misc]
        names = [type(one).__name__ for one in made]
        if penalty not in (None, 1.0) and RepetitionPenaltyLogitsProcessor.__name__ not in names:
            place = next((i for i, name in enumerate(names) if name not in _BEFORE_PENALTY), len(names))
            made.insert(place, RepetitionPenaltyLogitsProcessor(float(penalty)))
        return made

    def _beam_search(
        self,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        synced_gpus: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Beams of the engine; where the call asks for more than those, transformers' own. Stop strings cut what was
        found: they are no end of a hypothesis."""
        stops = next((one for one in stopping_criteria if isinstance(one, StopStrings)), None)
        criteria = type(stopping_criteria)(one for one in stopping_criteria if one is not stops)
        reason = self._why_no_beams(input_ids, logits_processor, criteria, generation_config, kwargs)
        if reason is None:
            self._route(NATIVE, "")
            call = native_rows.Call(input_ids, logits_processor, criteria, generation_config, None, kwargs)
            result = native_rows.answer_beams(call, self._backend)
        else:
            self._route(LOOP, reason)
            result = super()._beam_search(  # type: ignore[misc]
                input_ids,
                logits_processor=logits_processor,
                stopping_criteria=criteria,
                generation_config=generation_config,
                synced_gpus=synced_gpus,
                **kwargs,
            )
        if stops is None:
            return result
        pad = native_rows.pad_id(generation_config)
        if isinstance(result, Tensor):
            return stops.cut(result, pad)
        result.sequences = stops.cut(result.sequences, pad)
        return result

    def _why_no_beams(self, input_ids: Tensor, processors: Any, criteria: Any, config: Any, kwargs: Any) -> str | None:
        """Why the engine does not search; None if it does. Raises UnsupportedError for a seed, which nothing takes."""
        rows, cache = kwargs.get("prompt_rows"), kwargs.get("past_key_values")
        if config.do_sample and rows is not None and rows.seed is not None:
            raise UnsupportedError(f"seed is {rows.seed} with num_beams={config.num_beams}: use torch.manual_seed")
        if not self.native:
            return "native is False"
        if rows is None:
            return "inputs_embeds are the caller's"
        if config.do_sample:
            return "beams that are sampled"
        if config.early_stopping not in (None, False):
            return "early_stopping is set"
        if config.num_beams > self.max_sequences:
            return f"more beams than max_sequences={self.max_sequences}"
        call = native_rows.Call(input_ids, processors, criteria, config, None, kwargs)
        return native_rows.why_not(call, self.text, 0 if cache is None else cache.get_seq_length())


def _texts(given: Any) -> list[str]:
    return [given] if isinstance(given, str) else list(given or [])
