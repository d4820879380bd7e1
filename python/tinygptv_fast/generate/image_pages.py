"""Keys and values that an image state carries: for which prompts they are, and how a file holds them.

They are those of the whole pages (16 positions each) that a prompt begins with when a picture comes first: the text
before it, and most of its rows. The rest of the rows, and everything after them, is computed with each prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.pages import PAGE_TOKENS, beginning, make_pages
from ..errors import CheckpointError, InvalidArgumentError
from ..processing.prompt import encode_prompt, render
from ..processing.templates import Template
from ..processing.tokenizer import Tokenizer
from ..protocol import VISUAL, Prompt

if TYPE_CHECKING:
    from .. import _native
    from ..checkpoint.mapped import TensorInfo

Array = np.ndarray[Any, Any]

NAMES = ("keys_values", "keys_values_scales", "opening")
"""Tensors of a file: numbers [n,L,2,H,PS,D], their scales F16 [n,L,2,H,PS] (int8 alone), ids I32 before the picture."""
FACTS = ("kv_kind", "weights_id")
_CODES = {"int8": "I8", "f16": "F16", "bf16": "I16", "f32": "F32"}  # bfloat16 by its codes: numpy has no such type
_NUMPY = {"I16": np.float16}  # how the engine takes those codes


def opening_of(pages: _native.PrefixPages) -> list[int]:
    """Ids of the text before the picture."""
    ids = list(pages.ids)
    return ids[: ids.index(VISUAL)] if VISUAL in ids else ids


def opening_ids(template: Template, tokenizer: Tokenizer) -> list[int]:
    """Ids of what ``template`` puts before the first picture. Raises InvalidArgumentError for one that is verbatim."""
    if template.verbatim:
        raise InvalidArgumentError(
            f"template is {template.name!r}, which puts nothing before a picture; expected the one to ask with"
        )
    return encode_prompt(render("?", images=1, template=template), tokenizer)[0]


def whole_pages(opening: Sequence[int], rows: Array) -> Prompt:
    """The whole pages of a prompt that begins with ``opening`` and a picture, float32 ``rows`` [NQ, C].

    Raises InvalidArgumentError if there is none, or none that the picture reaches.
    """
    prompt = beginning(Prompt.of([opening, []], [rows]))
    if len(prompt) <= len(opening):
        raise InvalidArgumentError(
            f"pages is True, but the {len(opening)} tokens before the picture and its {len(rows)} rows have no page of "
            f"{PAGE_TOKENS} positions with rows in it: there is nothing to keep"
        )
    return prompt


def check_place(pages: _native.PrefixPages, index: int, before: Sequence[int], tokenizer: Tokenizer) -> None:
    """Raises InvalidArgumentError unless picture ``index`` of a prompt with the ids ``before`` its first picture is
    where ``pages`` were made for."""
    without = "image.without_pages() is asked with its embeddings alone"
    if index > 0:
        raise InvalidArgumentError(
            f"image {index} of the prompt is a state with pages, which are those of a first picture; {without}"
        )
    opening = opening_of(pages)
    if list(before) != opening:
        raise InvalidArgumentError(
            f"image is a state with pages for a prompt that begins with {_shown(opening, tokenizer)}, this one begins "
            f"with {_shown(before, tokenizer)}: encode_image(image, pages=True, template=...) makes those of another "
            f"template; {without}"
        )


def _shown(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    text = tokenizer.decode(list(ids))
    return repr(text if len(text) <= 60 else f"{text[:30]}...{text[-27:]}")


# -- files ------------------------------------------------------------------------------------------------------------


def to_file(pages: _native.PrefixPages) -> tuple[dict[str, Array], dict[str, str]]:
    """Tensors and facts of a file."""
    numbers, scales = np.asarray(pages.numbers), pages.scales
    tensors = {
        "keys_values": numbers.view(np.int16) if pages.kind == "bf16" else numbers,
        "opening": np.array(opening_of(pages), np.int32),
    }
    if scales is not None:
        tensors["keys_values_scales"] = np.asarray(scales)
    return tensors, {"kv_kind": pages.kind, "weights_id": pages.model_id}


def check_infos(path: object, kind: str | None, infos: Mapping[str, TensorInfo]) -> None:
    """Raises CheckpointError unless a file's tensors (``NAMES`` of them) are in type and rank those of ``kind``. Sizes
    are compared when the pages are made."""
    expected = {"keys_values": (_CODES.get(kind or "", ""), 6), "opening": ("I32", 1)}
    if kind == "int8":
        expected["keys_values_scales"] = ("F16", 5)
    if kind not in _CODES or {name: (info.code, len(info.shape)) for name, info in infos.items()} != expected:
        held = ", ".join(f"{name} {infos[name]}" for name in sorted(infos)) or "nothing"
        raise CheckpointError(f"{path} holds {held} as keys and values of kind {kind!r}, which save never writes")


def from_file(path: object, rows: Array, tensors: Mapping[str, Array], facts: Mapping[str, str]) -> _native.PrefixPages:
    """The pages of a file whose tensors have passed ``check_infos``; rows: float32 [NQ, C], the picture's.

    Raises CheckpointError for sizes that do not go together and numbers that no page can hold.
    """
    numbers, kind, opening = tensors["keys_values"], facts["kv_kind"], tensors["opening"].tolist()
    if min(opening, default=0) < 0:
        raise CheckpointError(f"{path}: opening holds {min(opening)}, expected token ids >= 0")
    if _CODES[kind] in _NUMPY:
        numbers = numbers.view(_NUMPY[_CODES[kind]])
    try:
        prompt = whole_pages(opening, rows)
        scales = tensors.get("keys_values_scales")
        return make_pages(prompt, numbers, scales, kind=kind, weights_id=facts["weights_id"])
    except InvalidArgumentError as error:
        raise CheckpointError(f"{path}: {error}") from error
