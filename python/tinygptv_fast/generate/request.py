"""What a caller asks for, checked and completed: argument, then the directory's generation config, then ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidArgumentError
from ..processing.templates import Template
from ..protocol import GenerationOptions, Grammar
from .names import check_names

DEFAULT_MAX_NEW_TOKENS = 256
MAX_STOPS, MAX_STOP_LENGTH = 16, 256
_LARGEST_INTEGER = 2**31 - 1
_LARGEST_SEED = 2**63 - 1
_FILTERS = ("top_k", "top_p", "min_p")


@dataclass(frozen=True)
class Request:
    """One request; the fields are the arguments of ``TinyGPTV.generate``, None = not given.

    Sampling happens iff ``do_sample=True`` or ``temperature > 0``. ``min_length`` counts the BOS of the original.
    ``boxes``, ``json_schema``, ``regex``: what the answer is held to (``constraints.py``).
    """

    image: Any = None
    prompt: str | None = None
    messages: Sequence[Mapping[str, Any]] | None = None
    task: str | None = None
    template: str | Template | None = None
    color: str = "rgb"
    max_new_tokens: int | None = None
    min_length: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[int, float] | None = None
    num_beams: int | None = None
    length_penalty: float | None = None
    num_return_sequences: int | None = None
    eos_token_id: int | Sequence[int] | None = None
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    choices: Sequence[str] | None = None
    box: Any = None
    deadline_ms: float | None = None
    speculate: bool | None = None
    boxes: str | None = None
    json_schema: Mapping[str, Any] | str | None = None
    regex: str | None = None

    @classmethod
    def of(cls, value: Request | Mapping[str, Any]) -> Request:
        """``value`` itself, or a Request from a dict. Unknown keys raise InvalidArgumentError."""
        if isinstance(value, Request):
            return value
        if not isinstance(value, Mapping):
            raise InvalidArgumentError(f"a request is {type(value).__name__}, expected a Request or a dict")
        check_names("generate", value, [f.name for f in dataclasses.fields(cls)])
        return cls(**value)


def check_color(color: Any) -> None:
    """Raises InvalidArgumentError unless ``color`` is an order of channels."""
    if color not in ("rgb", "bgr"):
        raise InvalidArgumentError(f"color is {color!r}, expected 'rgb' or 'bgr'")


def check_flag(name: str, value: Any) -> bool:
    """``value``, None as False. Raises InvalidArgumentError for anything else that is no bool."""
    if value is not None and not isinstance(value, bool):
        raise InvalidArgumentError(f"{name} is {value!r}, expected True or False")
    return bool(value)


def resolve_options(
    request: Request,
    defaults: Mapping[str, Any],
    *,
    eos_ids: tuple[int, ...],
    bos_id: int | None,
    pad_id: int | None,
    grammar: Grammar | None = None,
) -> GenerationOptions:
    """The options to decode ``request`` with. ``defaults`` is the directory's generation_config.json."""

    def pick(name: str, fallback: Any) -> Any:
        given = getattr(request, name)
        given = defaults.get(name) if given is None else given
        return fallback if given is None else given

    do_sample, temperature = _sampling(request, pick)
    options = GenerationOptions(
        max_new_tokens=_integer("max_new_tokens", pick("max_new_tokens", DEFAULT_MAX_NEW_TOKENS), 1),
        min_length=_integer("min_length", pick("min_length", 0), 0),
        do_sample=do_sample,
        temperature=temperature,
        top_k=_optional_integer("top_k", pick("top_k", None)) if do_sample else None,
        top_p=_optional_number("top_p", pick("top_p", None)) if do_sample else None,
        min_p=_optional_number("min_p", pick("min_p", None)) if do_sample else None,
        repetition_penalty=_number("repetition_penalty", pick("repetition_penalty", 1.0)),
        presence_penalty=_number("presence_penalty", pick("presence_penalty", 0.0)),
        frequency_penalty=_number("frequency_penalty", pick("frequency_penalty", 0.0)),
        logit_bias=_bias(request.logit_bias),
        num_beams=_integer("num_beams", pick("num_beams", 1), 1),
        length_penalty=_number("length_penalty", pick("length_penalty", 1.0)),
        num_return_sequences=_integer("num_return_sequences", pick("num_return_sequences", 1), 1),
        eos_ids=eos_ids,
        pad_id=0 if pad_id is None else pad_id,
        prefix_ids=() if bos_id is None else (bos_id,),
        seed=None if request.seed is None else _integer("seed", request.seed, 0, _LARGEST_SEED),
        speculate=check_flag("speculate", request.speculate),
        grammar=grammar,
    )
    if 1 < options.num_beams < options.num_return_sequences:
        raise InvalidArgumentError(
            f"num_return_sequences is {options.num_return_sequences}, expected <= num_beams={options.num_beams}"
        )
    if options.num_return_sequences > 1 and not do_sample and options.num_beams == 1:
        raise InvalidArgumentError(
            f"num_return_sequences is {options.num_return_sequences}, expected 1 for greedy decoding: "
            "ask for num_beams or do_sample=True"
        )
    return options


def _sampling(request: Request, pick: Any) -> tuple[bool, float]:
    temperature = _number("temperature", pick("temperature", 1.0)) if pick("temperature", None) is not None else None
    if temperature is not None and temperature < 0:
        raise InvalidArgumentError(f"temperature is {temperature!r}, expected a number >= 0 (0 is greedy)")
    if request.do_sample is None and request.temperature is not None:
        do_sample = request.temperature > 0
    else:
        do_sample = check_flag("do_sample", pick("do_sample", False))
    if do_sample and temperature == 0:
        raise InvalidArgumentError("temperature is 0 with do_sample=True, expected a number > 0")
    given = [name for name in _FILTERS if getattr(request, name) is not None]
    if given and not do_sample:
        raise InvalidArgumentError(
            f"{given[0]} is given but decoding is greedy, expected do_sample=True or temperature"
        )
    return do_sample, temperature if do_sample and temperature is not None else 1.0


def stop_strings(request: Request, template: Template, defaults: Mapping[str, Any]) -> list[str]:
    """The caller's stop strings, then the template's and the directory's; a verbatim template has only the first."""
    given = _listed("stop", request.stop, str)
    if len(given) > MAX_STOPS or any(not isinstance(s, str) or not 0 < len(s) <= MAX_STOP_LENGTH for s in given):
        raise InvalidArgumentError(
            f"stop is {str(given)[:80]}, expected at most {MAX_STOPS} strings of 1..{MAX_STOP_LENGTH} characters"
        )
    if template.verbatim:
        return given
    return list(dict.fromkeys([*given, *template.stop, *(defaults.get("stop_strings") or [])]))


def eos_ids(
    request: Request, template: Template, config_eos: int | None, defaults: Mapping[str, Any], vocab_size: int
) -> tuple[int, ...]:
    """Ids that end an answer: the argument if given, else the config's and, outside "raw", the generation config's."""
    given = request.eos_token_id
    if given is None:
        extra = None if template.verbatim else defaults.get("eos_token_id")
        ids = [*_listed("eos_token_id", config_eos, int), *_listed("eos_token_id", extra, int)]
    else:
        ids = _listed("eos_token_id", given, int)
    return tuple(dict.fromkeys(_integer("eos_token_id", index, 0, vocab_size - 1) for index in ids))


def _listed(name: str, value: Any, kind: type) -> list[Any]:
    """One of ``kind``, several or None, as a list; what is in a list is not looked at."""
    if value is None or isinstance(value, kind):
        return [] if value is None else [value]
    if not isinstance(value, (list, tuple)):
        what = "a string" if kind is str else "an integer"
        raise InvalidArgumentError(f"{name} is {str(value)[:60]!r}, expected {what} or a list of them")
    return list(value)


def _integer(name: str, value: Any, least: int, most: int = _LARGEST_INTEGER) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        upper = f" and <= {most}" if isinstance(value, int) and value > most else ""
        raise InvalidArgumentError(f"{name} is {value!r}, expected an integer >= {least}{upper}")
    return value


def _bias(given: Any) -> dict[int, float]:
    if given is not None and not isinstance(given, Mapping):
        raise InvalidArgumentError(f"logit_bias is {type(given).__name__}, expected a dict of token ids and numbers")
    return {_integer("logit_bias key", key, 0): _number(f"logit_bias[{key}]", v) for key, v in (given or {}).items()}


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or abs(value) == float("inf"):
        raise InvalidArgumentError(f"{name} is {value!r}, expected a finite number")
    return float(value)


def _optional_integer(name: str, value: Any) -> int | None:
    return None if value is None else _integer(name, value, 1)


def _optional_number(name: str, value: Any) -> float | None:
    return None if value is None else _number(name, value)
