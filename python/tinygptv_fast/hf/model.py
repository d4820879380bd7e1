"""The object that ``accelerate`` returns: a Phi of transformers whose forward pass and decoding are native."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from transformers import GenerationMixin
from transformers.models.phi.modeling_phi import PhiPreTrainedModel

from ..config import TextConfig
from ..engine.native_backend import NativeBackend
from ..errors import InvalidArgumentError, UnsupportedError
from .decoding import PAD_LEFT, NativeDecoding
from .sequences import Sequences

TORCH = "torch"
_NEEDS_TORCH = "which needs the torch model (quantization='none', optimize_memory=False, no past_key_values)"

_log = logging.getLogger("tinygptv_fast")


class AcceleratedPhi(NativeDecoding, PhiPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """``generate`` and ``__call__`` as of ``PhiForCausalLM``, computed by the native core. Made by ``accelerate``.

    It holds no parameters: train the torch model and accelerate it again.
    """

    kind = "accelerated model"
    instead = "accelerate again"
    train_instead = "train the torch model and accelerate it again"

    def __init__(
        self,
        source: Any,
        text: TextConfig,
        backend: NativeBackend,
        pool: Sequences,
        *,
        dtype: torch.dtype,
        keep_source: bool,
        computes_on: str,
    ) -> None:
        super().__init__(copy.deepcopy(source.config))
        self.generation_config = copy.deepcopy(source.generation_config)
        self._start_decoding(text, backend, pool, dtype=dtype, computes_on=computes_on)
        self._source = (source,) if keep_source else ()  # in a tuple, so that it is no part of this module
        torch.nn.Module.train(self, False)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Raises UnsupportedError: there are no parameters."""
        raise UnsupportedError("save_pretrained() cannot be done: save the torch model and accelerate it again")

    def get_input_embeddings(self) -> Any:
        """The torch model's embedding. Raises UnsupportedError once that was freed."""
        if not self._source:
            raise UnsupportedError("get_input_embeddings() needs the torch weights, which were freed or quantised")
        return self._source[0].get_input_embeddings()

    def _close_backend(self) -> None:
        super()._close_backend()
        self._source = ()

    def _padded_right(self, config: Any, given: dict[str, Any]) -> Any:
        """Of a row with padding on its right, transformers takes the first token from a query at the padding, which
        sees the row but not itself, and counts positions as its version does. Nothing native computes that."""
        if not self._source or given.get("past_key_values") is not None:
            raise UnsupportedError(f"attention_mask has padding on the right, {_NEEDS_TORCH}: {PAD_LEFT}")
        self._route(TORCH, "padding is on the right")
        _log.warning("a prompt padded on the right runs in the torch model, at its speed: %s", PAD_LEFT)
        source = self._source[0]
        return source.generate(generation_config=config, **{name: _on(source, value) for name, value in given.items()})


def _on(source: Any, value: Any) -> Any:
    return value.to(source.device) if isinstance(value, torch.Tensor) else value


def check_model(model: Any) -> None:
    """Raises InvalidArgumentError or UnsupportedError unless ``model`` is a Phi with a head that can generate."""
    if isinstance(model, AcceleratedPhi):
        raise InvalidArgumentError("model is accelerated already")
    if hasattr(model, "peft_config"):
        raise UnsupportedError(f"model is {type(model).__name__} with an adapter, expected model.merge_and_unload()")
    hint = ", here model.llama_model" if hasattr(model, "llama_model") else ""
    if hint or not isinstance(model, torch.nn.Module) or not hasattr(model, "config"):
        raise InvalidArgumentError(f"model is {type(model).__name__}, expected a PhiForCausalLM of transformers{hint}")
    phi: Any = model
    if not hasattr(phi, "generation_config") or not phi.can_generate():
        raise InvalidArgumentError(f"model is {type(model).__name__}, which does not generate; expected PhiForCausalLM")
