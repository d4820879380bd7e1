"""``TinyGPTVForConditionalGeneration``: a model directory behind the API of transformers, computed by our engine."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel

from ..checkpoint.directory import open_directory
from ..engine.native_backend import NativeBackend, choose_kv_tokens
from ..env import read_settings
from ..errors import InvalidArgumentError, UnsupportedError
from ..generate.model import TinyGPTV
from ..generate.names import check_names
from . import arguments
from .configuration import TinyGPTVConfig
from .devices import home_of, to_device, to_host
from .directories import HUB, check_load, fetch_directory
from .generation import complete, generation_config_of
from .processing import image_token_id
from .prompts import PromptRows, read_prompts
from .sequences import open_sequences
from .steps import OwnDecoding

LOAD = ("threads", "max_sequences", "kv_tokens", "kv_dtype", "quantization", "vision_dtype", "load", "adapter")
"""Arguments of ``TinyGPTV.from_pretrained`` that are those of ours, beside dtype and the hub's."""

_DTYPES = {"float32": "float32", "bfloat16": "bfloat16", "auto": "auto"}


class TinyGPTVForConditionalGeneration(OwnDecoding, PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """``generate`` and ``__call__`` over a loaded ``TinyGPTV``, whose own ``generate(boxes="free")`` has the same ids.

    ``from_pretrained`` makes one; given a ``TinyGPTV`` that is loaded already, both share its weights, and closing
    this one leaves that one open.
    """

    config_class = TinyGPTVConfig
    main_input_name = "input_ids"
    input_modalities = ("image", "text")  # type: ignore[assignment]
    kind = "model"
    train_instead = "there are no parameters; 'tinygptv finetune' trains an adapter"
    extra_names = ("pixel_values", "seed", "prompt_rows")

    def __init__(self, model: TinyGPTV, *, owned: bool = False) -> None:
        if not isinstance(model, TinyGPTV):
            raise InvalidArgumentError(
                f"model is {type(model).__name__}, expected a TinyGPTV: use from_pretrained for a directory"
            )
        backend = model._running()
        if not isinstance(backend, NativeBackend) or model.info["device"] != "cpu":
            raise UnsupportedError(
                f"backend is {model.info['backend']!r} on {model.info['device']!r}, expected the native engine on 'cpu'"
            )
        config = TinyGPTVConfig(model.config)
        config._name_or_path = model.info["path"]
        super().__init__(config)
        self.generation_config = generation_config_of(model._directory)
        self._model, self._owned = model, owned
        self.words, self.max_sequences = model.tokenizer, model.info["max_sequences"]
        self.prefix_columns = 0 if config.bos_token_id is None else 1
        self.image_token_id = image_token_id(model.tokenizer)
        text = model.config.text
        pool = open_sequences(
            backend.weights,
            kv_kind=backend.kv_kind,
            kv_tokens=min(
                model.info["kv_tokens"], choose_kv_tokens(text, backend.kv_kind, model.info["max_sequences"])
            ),
            threads=model.info["threads"],
            isa=read_settings().cpu_isa,
        )
        self._start_decoding(text, backend, pool, dtype=torch.float32)
        torch.nn.Module.train(self, False)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, config: Any = None, **kwargs: Any
    ) -> TinyGPTVForConditionalGeneration:
        """Load a model directory, "demo" or a hub id.

        kwargs: those of ``TinyGPTV.from_pretrained`` (threads, max_sequences, kv_tokens, kv_dtype, quantization,
        vision_dtype, load, adapter), dtype ("auto", float32 or bfloat16) and the hub's (revision, token, cache_dir,
        local_files_only). What auto classes pass along is accepted as long as it asks for nothing. Raises
        UnsupportedError naming what cannot be done, and what ``TinyGPTV.from_pretrained`` raises.
        """
        if model_args:
            raise InvalidArgumentError(f"from_pretrained() got {len(model_args) + 1} positional arguments, expected 1")
        kept = check_load("from_pretrained", kwargs, (*LOAD, "dtype", "torch_dtype"))
        dtype = _dtype_name(kept.pop("dtype", None), kept.pop("torch_dtype", None))
        path = fetch_directory(pretrained_model_name_or_path, kept)
        _check_config(config, path)
        settings = {name: value for name, value in kept.items() if name not in HUB}
        model = TinyGPTV.from_pretrained(path, dtype=dtype, **settings)
        try:
            return cls(model, owned=True)
        except BaseException:
            model.close()
            raise

    @classmethod
    def _from_config(cls, config: Any, **kwargs: Any) -> Any:
        raise UnsupportedError("from_config() cannot be done: weights come with a directory, use from_pretrained()")

    # --- about -----------------------------------------------------------------------------------------------------
    @property
    def tinygptv(self) -> TinyGPTV:
        """The model behind it, with everything that transformers has no name for."""
        return self._model

    @property
    def info(self) -> dict[str, Any]:
        """As ``TinyGPTV.info``."""
        return self._model.info

    def save_pretrained(  # type: ignore[override]
        self, save_directory: Any, is_main_process: bool = True, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Copy the model directory to a new one, or to one that holds nothing but files of its processor."""
        idle = {"safe_serialization": True, "state_dict": None, "variant": None, "token": None}
        check_names("save_pretrained", kwargs, (*idle, "max_shard_size"))
        for name, nothing in {**idle, "push_to_hub": False}.items():
            value = push_to_hub if name == "push_to_hub" else kwargs.get(name, nothing)
            if value not in (nothing, None):
                raise UnsupportedError(f"{name} is {value!r}, which cannot be done: the directory is copied as it is")
        if not is_main_process:
            return
        target, source = Path(save_directory), Path(self.info["path"])
        if target.is_dir() and any(target.iterdir()) and _only_copies(target, source):
            shutil.rmtree(target)
        self._model.save_pretrained(target)

    def get_input_embeddings(self) -> Any:
        """Raises UnsupportedError: embeddings are in the native core."""
        raise UnsupportedError("get_input_embeddings() cannot be done: embeddings are packed; give input_ids")

    def _close_backend(self) -> None:
        if self._owned:
            self._model.close()

    # --- asking ----------------------------------------------------------------------------------------------------
    def generate(  # type: ignore[override]
        self,
        inputs: Tensor | None = None,
        generation_config: Any = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        prefix_allowed_tokens_fn: Any = None,
        synced_gpus: Any = None,
        assistant_model: Any = None,
        streamer: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Prompts and what is generated behind them, int64 [B, n], as of any model of pictures and text.

        input_ids int64 [B, T] with NQ image tokens for a picture, attention_mask [B, T] padded on the left,
        pixel_values float32 [pictures, 3, S, S] in the order of their places: what ``TinyGPTVProcessor`` makes. seed:
        of sampling on the engine, the one of ``TinyGPTV.generate``. All else is transformers': arguments,
        configuration, results, errors. Processors, criteria and penalties see generated ids alone (and the BOS,
        where the model has one), as in ``TinyGPTV.generate``. ``stop_strings`` need no tokenizer, and are added to
        the model's own.

        Raises InvalidArgumentError for wrong values and unknown names, UnsupportedError naming what cannot be run.
        """
        named = {
            "inputs": inputs,
            "logits_processor": logits_processor,
            "stopping_criteria": stopping_criteria,
            "prefix_allowed_tokens_fn": prefix_allowed_tokens_fn,
            "synced_gpus": synced_gpus,
            "assistant_model": assistant_model,
        }
        given = {**{name: value for name, value in named.items() if value is not None}, **kwargs}
        rest = {"generation_config": generation_config, "streamer": streamer}
        try:
            self._check_open()
            home, given = home_of(given), to_host(given)
            embedded = given.get("inputs_embeds") is not None
            if embedded:
                _check_alone(given)
            else:
                arguments.check_generate(given, generation_config, self.generation_config, self.extra_names)
                ids, given, config = self._prepare(given, generation_config)
        except BaseException:
            if streamer is not None:
                streamer.end()
            raise
        if embedded:
            return to_device(super().generate(**rest, **given), home)
        if streamer is not None:
            streamer = _PromptFirst(streamer, ids)
        result = super().generate(generation_config=config, streamer=streamer, **given)
        return to_device(_with_prompt(result, ids, self.prefix_columns), home)

    def _prepare(self, given: dict[str, Any], config: Any) -> tuple[Tensor, dict[str, Any], Any]:
        """The prompts, the arguments of transformers' ``generate`` with codes in their place, its configuration."""
        given = dict(given)
        ids, mask = self._ids_and_mask(given.pop("inputs", None), given.pop("input_ids", None), given)
        seed = arguments.check_seed(given.pop("seed", None))
        rows = given.pop("pixel_values", None)
        codes, visual = self._codes(ids, mask, rows)
        config, given = complete(
            config,
            given,
            self.generation_config,
            columns=ids.shape[1],
            longest=int((mask != 0).sum(1).max()),
            positions=self.text.max_positions,
        )
        samples = given.get("num_return_sequences") or getattr(config, "num_return_sequences", None)
        samples = samples or self.generation_config.num_return_sequences or 1
        bos = torch.tensor([self._model.config.bos_token_id] * self.prefix_columns, dtype=torch.int64)
        given |= {
            "input_ids": bos.expand(len(ids), -1),
            "inputs_embeds": codes,
            "attention_mask": mask,
            "prompt_rows": PromptRows(visual, seed, samples),
        }
        return ids, given, config

    def _ids_and_mask(self, inputs: Any, input_ids: Any, given: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        if inputs is not None and input_ids is not None:
            raise InvalidArgumentError("inputs and input_ids are given, expected one of them")
        ids = inputs if input_ids is None else input_ids
        if not isinstance(ids, Tensor) or ids.dim() != 2 or 0 in ids.shape or ids.dtype not in _ID_TYPES:
            what = f"{list(ids.shape)} {ids.dtype}" if isinstance(ids, Tensor) else type(ids).__name__
            raise InvalidArgumentError(f"input_ids is {what}, expected an int64 tensor [B, T], B, T >= 1")
        mask = given.get("attention_mask")
        if mask is None:
            return ids.to(torch.int64), torch.ones_like(ids, dtype=torch.int64)
        arguments.check_mask(mask, ids)
        return ids.to(torch.int64), mask

    def _codes(self, ids: Tensor, mask: Tensor, pixel_values: Any) -> tuple[Tensor, Any]:
        """Codes int64 [B, T, 1] and the visual tokens float32 [n, C] they refer to, None without pictures."""
        pixels = self._pixels(pixel_values)
        queries = 0 if self.config.qformer is None else self.config.qformer.queries
        codes = read_prompts(ids, mask, len(pixels), self.text, queries=queries, image_token_id=self.image_token_id)
        if not len(pixels):
            return codes, None
        encoded = [self._backend.encode_image(_Pixels(one), self._check_open) for one in pixels]
        return codes, torch.cat(encoded).numpy()

    def _pixels(self, pixel_values: Any) -> Tensor:
        """float32 [pictures, 3, S, S]."""
        if pixel_values is None:
            return torch.empty(0)
        vision = self.config.vision
        if vision is None:
            raise InvalidArgumentError("pixel_values is given, expected None: the model is text-only")
        side = vision.image_size
        right = isinstance(pixel_values, Tensor) and pixel_values.is_floating_point() and pixel_values.dim() in (4, 5)
        if not right or tuple(pixel_values.shape[-3:]) != (3, side, side):
            tensor = isinstance(pixel_values, Tensor)
            found = f"{list(pixel_values.shape)} {pixel_values.dtype}" if tensor else type(pixel_values).__name__
            raise InvalidArgumentError(f"pixel_values is {found}, expected float32 [pictures, 3, {side}, {side}]")
        pixels = pixel_values.detach().to("cpu", torch.float32).flatten(0, -4)
        if not bool(torch.isfinite(pixels).all()):
            raise InvalidArgumentError("pixel_values holds NaN or infinity, expected finite numbers")
        return pixels

    # --- one pass ---------------------------------------------------------------------------------------------------
    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        prompt_rows: PromptRows | None = None,
        **kwargs: Any,
    ) -> Any:
        """One pass: logits float32 [B, T or logits_to_keep, V] as ``CausalLMOutputWithPast``. Arguments as of
        ``generate``, and past_key_values, use_cache, logits_to_keep, return_dict."""
        self._check_open()
        given = {"input_ids": input_ids, "inputs_embeds": inputs_embeds}
        home = home_of(given)
        given = to_host({**given, "attention_mask": attention_mask, "pixel_values": pixel_values})
        input_ids, inputs_embeds = given["input_ids"], given["inputs_embeds"]
        attention_mask, pixel_values = given["attention_mask"], given["pixel_values"]
        past = kwargs.get("past_key_values")
        fresh = past is None or past.get_seq_length() == 0
        if input_ids is not None and prompt_rows is None and fresh:
            if inputs_embeds is not None:
                raise InvalidArgumentError("input_ids and inputs_embeds: expected exactly one of the two")
            ids, mask = self._ids_and_mask(None, input_ids, {"attention_mask": attention_mask})
            inputs_embeds, visual = self._codes(ids, mask, pixel_values)
            input_ids, attention_mask, prompt_rows = None, mask, PromptRows(visual)
        elif pixel_values is not None:
            raise UnsupportedError(
                "pixel_values is given with past_key_values or inputs_embeds, expected input_ids alone"
            )
        output = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            prompt_rows=prompt_rows,
            **kwargs,
        )
        return to_device(output, home)


_ID_TYPES = (torch.int64, torch.int32)


def _check_alone(given: dict[str, Any]) -> None:
    """What goes with input_ids alone, and is None with embeddings, is dropped."""
    if given.pop("pixel_values", None) is not None or given.pop("seed", None) is not None:
        raise UnsupportedError("inputs_embeds is given with pixel_values or seed, expected input_ids with them")


class _Pixels:
    """Pixels as a picture of the encoder. float32 [3, S, S]; ``image`` is their bytes, by which it is recognised."""

    def __init__(self, pixels: Tensor) -> None:
        self._pixels = pixels.contiguous()
        side = pixels.shape[-1]
        self.image = Image.frombytes("RGB", (4 * side, side), self._pixels.numpy().tobytes())

    def pixels(self) -> Tensor:
        """float32 [3, S, S]."""
        return self._pixels


class _PromptFirst:
    """A streamer that is given the prompt's ids where transformers, which has none, gives nothing."""

    def __init__(self, streamer: Any, ids: Tensor) -> None:
        self._streamer, self._ids = streamer, ids
        self._first = threading.Lock()  # taken once

    def put(self, value: Tensor) -> None:
        """Ids [B, T] of the prompt, then [1] each."""
        self._streamer.put(self._ids if self._first.acquire(blocking=False) else value)

    def end(self) -> None:
        """Nothing more comes."""
        self._streamer.end()


def _with_prompt(result: Any, ids: Tensor, skip: int) -> Any:
    """``result`` of ``generate`` with the prompts' ids [B, T] in place of its first ``skip`` columns."""

    def joined(sequences: Tensor) -> Tensor:
        repeated = ids.repeat_interleave(len(sequences) // len(ids), dim=0)
        return torch.cat([repeated, sequences[:, skip:]], dim=1)

    if isinstance(result, Tensor):
        return joined(result)
    result.sequences = joined(result.sequences)
    return result


def _dtype_name(dtype: Any, older: Any) -> str:
    given = older if dtype is None else dtype
    name = "auto" if given is None else str(given).removeprefix("torch.")
    if name not in _DTYPES:
        raise UnsupportedError(f"dtype is {given!r}, which cannot be computed in, expected 'auto', float32 or bfloat16")
    return name


def _check_config(config: Any, path: Path) -> None:
    """Weights and configuration come together: a config that was changed would be ignored without a word."""
    if config is None:
        return
    if not isinstance(config, TinyGPTVConfig):
        raise InvalidArgumentError(f"config is {type(config).__name__}, expected a TinyGPTVConfig")
    mine, theirs = config.to_dict(), open_directory(path).config.to_dict()
    for name, value in theirs.items():
        if mine[name] != value:
            raise InvalidArgumentError(f"config.{name} is {mine[name]!r}, expected {value!r}, which {path} holds")


def _only_copies(target: Path, source: Path) -> bool:
    """Whether every file of ``target`` is one of ``source``, byte for byte."""
    return all(
        (source / one.name).is_file() and one.is_file() and one.read_bytes() == (source / one.name).read_bytes()
        for one in target.iterdir()
    )
