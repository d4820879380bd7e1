"""Which picture belongs where, and rows of ids as one rectangle. Knows lists; no models and no files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ..errors import InvalidArgumentError, PromptError
from ..processing.prompt import check_image_count
from ..processing.templates import PLACEHOLDER

_REMOTE = ("http://", "https://", "data:")


def pictures_of(images: Any, texts: Sequence[str]) -> list[Any]:
    """All pictures in the order of their places. images: None, one, a list, or a list for each text; Raises
    PromptError where a text has more or fewer places than there are pictures."""
    if images is None:
        images = []
    elif not isinstance(images, (list, tuple)):
        images = [images]
    if any(isinstance(one, (list, tuple)) for one in images):
        if len(images) != len(texts):
            raise InvalidArgumentError(f"images has {len(images)} lists, expected one for each of {len(texts)} texts")
        pictures: list[Any] = []
        for own, text in zip(images, texts, strict=True):
            row = [] if own is None else list(own) if isinstance(own, (list, tuple)) else [own]
            check_image_count(text, len(row))
            pictures += row
        return pictures
    check_image_count("".join(texts) if len(texts) == 1 else PLACEHOLDER * sum(map(_places, texts)), len(images))
    return list(images)


def _places(text: str) -> int:
    return text.count(PLACEHOLDER)


def open_picture(picture: Any) -> Any:
    """What ``ImageProcessor`` opens: URLs and data are fetched by transformers, everything else stays as it is."""
    if isinstance(picture, str) and picture.startswith(_REMOTE):
        from transformers.image_utils import load_image

        return load_image(picture)
    return os.fspath(picture) if isinstance(picture, os.PathLike) else picture


def pad_rows(
    rows: Sequence[Sequence[int]], *, pad_id: int, padding: bool | str, side: str, tensors: str | None
) -> dict[str, Any]:
    """input_ids and attention_mask, lists [B][T]; T differs by row only without padding and without tensors."""
    if padding not in (True, False, "longest", "do_not_pad", None):
        raise InvalidArgumentError(f"padding is {padding!r}, expected True, False or 'longest'")
    if side not in ("left", "right"):
        raise InvalidArgumentError(f"padding_side is {side!r}, expected 'left' or 'right'")
    if tensors not in (None, "pt", "np"):
        raise InvalidArgumentError(f"return_tensors is {tensors!r}, expected None, 'pt' or 'np'")
    lengths = {len(row) for row in rows}
    if padding in (False, "do_not_pad", None):
        if tensors is not None and len(lengths) > 1:
            raise PromptError(f"text has rows of {sorted(lengths)} tokens, expected padding=True to make a tensor")
        return {"input_ids": [list(row) for row in rows], "attention_mask": [[1] * len(row) for row in rows]}
    longest = max(lengths)
    ids, mask = [], []
    for row in rows:
        empty = longest - len(row)
        ones, zeros, pads = [1] * len(row), [0] * empty, [pad_id] * empty
        ids.append(pads + list(row) if side == "left" else list(row) + pads)
        mask.append(zeros + ones if side == "left" else ones + zeros)
    return {"input_ids": ids, "attention_mask": mask}
