"""What the models of this folder share: transformers' ``generate`` and ``forward`` over the native core.

``last_route`` says what answered: the engine answers a call whole ("native") where what transformers built of it
(processors, criteria) is what the engine does; everything else runs in transformers' own loop ("loop") over native
forward passes. Prompts padded on the right go to a torch model ("torch") where there is one. All of them are exact.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..config import TextConfig
from ..engine.native_backend import NativeBackend
from ..errors import ClosedError, UnsupportedError
from ..generate.names import check_names
from . import arguments, forward, native_rows
from .cache import NativeCache
from .devices import CPU, home_of, to_device, to_host
from .prompts import PromptRows
from .sequences import Sequences

if TYPE_CHECKING:
    from typing_extensions import Self

NATIVE = "native"
LOOP = "loop"
PAD_LEFT = "pad on the left, padding_side='left' of the tokenizer"

_log = logging.getLogger("tinygptv_fast")


class NativeDecoding:
    """Stands before a ``PreTrainedModel`` and ``GenerationMixin`` among the bases of a class, and takes over what they
    would compute with torch. Any thread may call it, several at a time. Python's side of it is on the CPU: tensors from
    a GPU are brought over, and what is made of them goes back. There are no parameters and no gradients.

    ``kind``, ``instead`` and ``train_instead`` are what errors say of it. ``extra_names``: arguments of ``generate``
    that transformers has not.
    """

    kind = "model"
    instead = "load it again"
    train_instead = "there are no parameters"
    extra_names: tuple[str, ...] = ()
    generation_config: Any

    def _start_decoding(
        self, text: TextConfig, backend: NativeBackend, pool: Sequences, *, dtype: torch.dtype, computes_on: str = CPU
    ) -> None:
        self.text = text
        self.computes_on = computes_on
        self.native = True  # False: never the engine, always transformers' loop
        self.last_route = ""
        self._backend = backend
        self._pool = pool
        self._dtype = dtype
        self._closing = threading.Lock()
        self._closed = False

    # --- what transformers and its users ask of a model ------------------------------------------------------------
    @property
    def device(self) -> torch.device:
        """The CPU, where tensors need no way. ``computes_on`` says what computes."""
        return torch.device(CPU)

    @property
    def dtype(self) -> torch.dtype:
        """Of the torch model. Logits are float32 whatever it is."""
        return self._dtype

    @property
    def info(self) -> dict[str, Any]:
        """isa, threads, sizes in bytes."""
        return self._backend.describe()

    def stats(self) -> dict[str, Any]:
        """Counters and gauges of the engine, and under ``sequences`` those of the loop's cache."""
        self._check_open()
        return {**self._backend.stats(), "sequences": self._pool.counts()}

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Itself, for the device that computes. Raises UnsupportedError for another one or a dtype."""
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.dtype) or (
                isinstance(value, (str, int, torch.device)) and torch.device(value).type != self.computes_on
            ):
                where = "the CPU" if self.computes_on == CPU else "a GPU"
                raise UnsupportedError(f"to({value}) cannot be done: weights are packed for {where}, {self.instead}")
        return self

    def train(self, mode: bool = True) -> Self:
        """Raises UnsupportedError for True: there are no parameters."""
        if mode:
            raise UnsupportedError(f"train() cannot be done: {self.train_instead}")
        return self

    def cuda(self, *args: Any, **kwargs: Any) -> Self:
        """As ``to("cuda")``."""
        return self.to("cuda")

    def half(self, *args: Any) -> Self:
        """As ``to(torch.float16)``."""
        return self.to(torch.float16)

    def bfloat16(self, *args: Any) -> Self:
        """As ``to(torch.bfloat16)``."""
        return self.to(torch.bfloat16)

    def close(self) -> None:
        """Free everything. What runs ends as cancelled; later calls raise ClosedError."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self._close_backend()
        self._pool.close()

    def _close_backend(self) -> None:
        self._backend.close()

    def _padded_right(self, config: Any, given: dict[str, Any]) -> Any:
        """``generate`` for prompts padded on the right."""
        raise UnsupportedError(f"attention_mask has padding on the right: {PAD_LEFT}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- generate --------------------------------------------------------------------------------------------------
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: Any = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        prefix_allowed_tokens_fn: Any = None,
        synced_gpus: Any = None,
        assistant_model: Any = None,
        streamer: Any = None,
        negative_prompt_ids: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As ``PhiForCausalLM.generate``: arguments, configuration, results and errors. Raises InvalidArgumentError
        (a ValueError) for a name that nothing has, UnsupportedError naming what cannot be run, CapacityError if
        kv_tokens is too small. A streamer is always ended, errors included."""
        named = {
            "inputs": inputs,
            "logits_processor": logits_processor,
            "stopping_criteria": stopping_criteria,
            "prefix_allowed_tokens_fn": prefix_allowed_tokens_fn,
            "synced_gpus": synced_gpus,
            "assistant_model": assistant_model,
            "streamer": streamer,
            "negative_prompt_ids": negative_prompt_ids,
            "negative_prompt_attention_mask": negative_prompt_attention_mask,
        }
        given = {name: value for name, value in named.items() if value is not None}
        own: NativeCache | None = None
        result: Any = None
        try:
            self._check_open()
            home = home_of({**given, **kwargs})
            given, kwargs = to_host(given), to_host(kwargs)
            arguments.check_generate({**given, **kwargs}, generation_config, self.generation_config, self.extra_names)
            arguments.check_cache(kwargs.get("past_key_values"), self._pool)
            kwargs.pop("cache_implementation", None)  # checked: it asks for nothing
            if arguments.pads_right({**given, **kwargs}, generation_config, self.generation_config):
                return to_device(self._padded_right(generation_config, {**given, **kwargs}), home)
            if kwargs.get("past_key_values") is None and self._uses_cache(generation_config, kwargs):
                own = kwargs["past_key_values"] = NativeCache(self._pool)
            self._route(LOOP, "a way of decoding of transformers' own")
            result = super().generate(  # type: ignore[misc]  # of a mixin that says what it is mixed into
                generation_config=generation_config, **given, **kwargs
            )
            return to_device(result, home)
        except BaseException:
            if streamer is not None:  # whoever reads it in another thread would wait for ever
                with contextlib.suppress(Exception):
                    streamer.end()
            raise
        finally:
            if own is not None and getattr(result, "past_key_values", None) is not own:
                own.release()

    def _uses_cache(self, config: Any, kwargs: Mapping[str, Any]) -> bool:
        if kwargs.get("inputs_embeds") is not None:
            return True  # transformers sees to it that they are fed once, whatever was asked
        asked = kwargs.get("use_cache")
        for source in (config, self.generation_config):
            asked = getattr(source, "use_cache", None) if asked is None else asked
        return asked is not False

    def _sample(  # transformers' loop for greedy decoding and sampling
        self,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        synced_gpus: bool = False,
        streamer: Any = None,
        **kwargs: Any,
    ) -> Any:
        call = native_rows.Call(input_ids, logits_processor, stopping_criteria, generation_config, streamer, kwargs)
        cache = kwargs.get("past_key_values")
        cached = 0 if cache is None else cache.get_seq_length()
        reason = native_rows.why_not(call, self.text, cached) if self.native else "native is False"
        if reason is None:
            self._route(NATIVE, "")
            return native_rows.answer(call, self._backend)
        rows = kwargs.get("prompt_rows")
        if generation_config.do_sample and rows is not None and rows.seed is not None:
            raise UnsupportedError(
                f"seed is {rows.seed}, and this call is transformers' own to sample ({reason}): use torch.manual_seed"
            )
        self._route(LOOP, reason)
        return super()._sample(  # type: ignore[misc]
            input_ids,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            generation_config=generation_config,
            synced_gpus=synced_gpus,
            streamer=streamer,
            **kwargs,
        )

    def _route(self, route: str, reason: str) -> None:
        self.last_route = f"{route}: {reason}" if reason else route
        _log.debug("generate: %s", self.last_route)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: NativeCache | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache_position: Tensor | None = None,
        next_sequence_length: int | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | None = None,
        prompt_rows: PromptRows | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The new columns of one step. transformers 5 says how many there are, 4 gives their places."""
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        new = next_sequence_length
        if new is None and cache_position is not None:
            new = int(cache_position.shape[0])
        inputs: dict[str, Any] = {
            "past_key_values": past_key_values,
            "attention_mask": attention_mask,
            "use_cache": use_cache,
            "logits_to_keep": logits_to_keep or 1,
        }
        if inputs_embeds is not None and past < inputs_embeds.shape[1]:  # of the prompt alone, and all of it at once
            inputs["inputs_embeds"] = inputs_embeds[:, past:]
            inputs["prompt_rows"] = prompt_rows
        else:
            inputs["input_ids"] = input_ids if new is None else input_ids[:, -new:]
        return inputs

    # --- one step --------------------------------------------------------------------------------------------------
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: NativeCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        prompt_rows: PromptRows | None = None,
        **kwargs: Any,
    ) -> Any:
        """input_ids int64 [B, T] or inputs_embeds float [B, T, C] behind what past_key_values holds; attention_mask
        [B, past + T], 0 for padding. Returns ``CausalLMOutputWithPast``: logits float32 [B, T or logits_to_keep, V],
        zeros where the mask is 0, and the cache unless use_cache is False. With prompt_rows, inputs_embeds holds its
        codes. No gradients."""
        self._check_open()
        arguments.check_supported(kwargs)
        check_names("forward", kwargs, arguments.OPTIONAL)
        arguments.check_cache(past_key_values, self._pool)
        cache = NativeCache(self._pool) if past_key_values is None else past_key_values
        keep = logits_to_keep if isinstance(logits_to_keep, int) else 0
        given = {"input_ids": input_ids, "inputs_embeds": inputs_embeds}
        home, hosted = home_of(given), to_host({**given, "mask": attention_mask, "keep": logits_to_keep})
        batch = forward.make_batch(
            hosted["input_ids"], hosted["inputs_embeds"], hosted["mask"], cache.mask, keep, self.text, prompt_rows
        )
        if keep == 1 and not bool(batch.mask[:, -1].all()):
            raise UnsupportedError(f"attention_mask has padding in its last column: {PAD_LEFT}")
        logits = forward.run(batch, cache, self.text)
        if past_key_values is None and use_cache is False:
            cache.release()
        if isinstance(logits_to_keep, Tensor):
            logits = logits[:, hosted["keep"]]
        output = CausalLMOutputWithPast(
            logits=logits.to(home), past_key_values=None if past_key_values is None and use_cache is False else cache
        )
        return output.to_tuple() if return_dict is False else output

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"the {self.kind} is closed")
