"""Opening models for the commands: threads, notices, closing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .. import env
from .output import progress

if TYPE_CHECKING:
    from ..generate import TinyGPTV


def thread_count(threads: int | None) -> int:
    """``threads``, else TINYGPTV_THREADS, else the physical cores."""
    from .. import _native

    return threads or env.read_settings().threads or _native.physical_cores()


def use_threads(threads: int | None, processes: int = 1) -> int:
    """Set torch's threads to ``thread_count(threads)``, where nobody has named a number to the share of the cores that
    one of ``processes`` on this machine has; returns the number."""
    import torch

    named = threads or env.read_settings().threads
    count = named or max(1, thread_count(None) // processes)
    torch.set_num_threads(count)
    return count


@contextmanager
def loaded(
    model: str,
    *,
    backend: str,
    dtype: str = "auto",
    vision: bool = True,
    threads: int | None = None,
    quiet: bool = False,
) -> Iterator[TinyGPTV]:
    """The model of this name, loaded, and closed at the end of the block. torch is imported with the first picture, or
    where the backend is the reference."""
    from ..generate import TinyGPTV

    if backend == "reference":
        use_threads(threads)
    elif vision:
        threads = thread_count(threads)
    with progress("loading the model", quiet=quiet):
        opened = TinyGPTV.from_pretrained(model, backend=backend, dtype=dtype, vision=vision, threads=threads)
    with opened:
        yield opened


def local_directory(model: str) -> Path:
    """The folder of 'demo' or of a local directory; nothing is downloaded."""
    if model != "demo":
        return Path(model)
    from ..generate.loading import locate

    return locate("demo", revision=None, token=None, cache_dir=None, local_files_only=True)


def note(text: str, *, quiet: bool) -> None:
    """A line for people on stderr, unless quiet."""
    if not quiet:
        print(text, file=sys.stderr)
