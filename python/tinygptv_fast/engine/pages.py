"""Keys and values of a prompt's first positions outside of an engine's cache: ``_native.PrefixPages``, made and named.

Knows arrays and ids, not where they come from.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from ..protocol import VISUAL, Prompt

if TYPE_CHECKING:
    from .. import _native

PAGE_TOKENS = 16
"""Positions of a page: only whole pages are kept."""


def beginning(prompt: Prompt) -> Prompt:
    """The whole pages that ``prompt`` begins with; empty if it is shorter than one."""
    ids = prompt.ids[: len(prompt) // PAGE_TOKENS * PAGE_TOKENS]
    rows = int((ids == VISUAL).sum())
    return Prompt(ids, None if rows == 0 or prompt.embeddings is None else prompt.embeddings[:rows])


def make_pages(
    prompt: Prompt, numbers: np.ndarray[Any, Any], scales: np.ndarray[Any, Any] | None, *, kind: str, weights_id: str
) -> _native.PrefixPages:
    """``numbers`` [n,L,2,H,PS,D] and ``scales`` [n,L,2,H,PS] as the pages of ``prompt``, which is n whole pages.

    Named by their content, so that equal ones share pages of a cache. Raises InvalidArgumentError for shapes that do
    not go together and numbers that no page can hold.
    """
    from .. import _native

    arrays = [np.ascontiguousarray(one) for one in (numbers, scales) if one is not None]
    digest = hashlib.sha256(f"{kind} {[one.shape for one in arrays]}\n".encode())
    for array in arrays:
        digest.update(array.reshape(-1).view(np.uint8).data)
    buffers: list[Any] = [prompt.ids, prompt.embeddings, *arrays]  # older stubs of numpy do not say that they are
    ids, rows, *kept = buffers
    return _native.PrefixPages(
        ids, rows, kept[0], kept[1] if scales is not None else None,
        kind=kind, model_id=weights_id, digest=digest.digest(),
    )  # fmt: skip
