"""Names of arguments, of which one that does not exist is an error with the nearest that does; and names of files."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError

_LISTED = 40  # names that an error still lists


def check_names(where: str, given: Iterable[Any], known: Iterable[str]) -> None:
    """Raises InvalidArgumentError for the first of ``given`` that ``known`` lacks, with the nearest that it has.

    where: the function whose arguments they are.
    """
    names = sorted(set(known))
    for name in map(str, given):
        if name not in names:
            listed = f" (of {', '.join(names)})" if len(names) <= _LISTED else ""
            near = _nearest(name, names)
            raise InvalidArgumentError(f"{where}() has no argument {name!r}; the nearest is {near!r}{listed}")


def check_path(name: str, value: Any) -> Path:
    """``value`` as a path. Raises InvalidArgumentError, calling it ``name``, for what is none."""
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str) or "\0" in os.fspath(value):
        raise InvalidArgumentError(f"{name} is {value!r}, expected the name of a file or folder")
    return Path(value)


def _nearest(name: str, known: list[str]) -> str:
    """A name within the other goes before letters in common: torch_dtype means dtype, not kv_dtype."""
    within = [one for one in known if (len(one) > 3 and one in name) or (len(name) > 3 and name in one)]
    return difflib.get_close_matches(name, within or known, 1, cutoff=0.0)[0]
