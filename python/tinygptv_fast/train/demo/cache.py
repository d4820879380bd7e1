"""What the frozen vision side says of pictures, once for all, in float16.

That is the tower's patches of the pictures "v5" and "look" learn from, and the Q-Former's rows of those of the stages.

Picture i of a file is scene i of its stage (``scenes_of(recipe, stage, 0, [i])``). They are computed in blocks of 64
that begin at multiples of 64, so that what is kept of a picture does not depend on where the run was stopped.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...checkpoint.writer import reserve
from ...errors import CheckpointError
from ..precision import autocast
from ..stages.interrupt import stop_on_interrupt
from .loop import Bar, Paused, Session, check_marks, marks, write_json
from .pictures import Eyes, pixels_of, scenes_of
from .recipe import ASKED, CACHED, CACHES, KEPT, SHOWN, DemoRecipe
from .seeing import load_eyes

BLOCK = 64
_PATH = 4  # apart from the phases of ``seeing``
_FLUSH_SECONDS = 30.0
_PROGRESS = "progress.json"


@torch.no_grad()
def block_patches(eyes: Eyes, recipe: DemoRecipe, shown: str, size: int, first: int, count: int) -> np.ndarray:
    """float16 [count, I, E] of the tower, normalised, of pictures ``first`` and on: a function of its arguments."""
    device = eyes.vision.pos_embed.device
    scenes = scenes_of(recipe, shown, 0, range(first, first + count))
    pixels = pixels_of(recipe, scenes, size, _PATH, size, first).to(device)
    with autocast(device):
        patches = eyes.patches(pixels)
    return patches.float().cpu().numpy().astype(np.float16)


@torch.no_grad()
def block_rows(eyes: Eyes, patches: Cache, first: int, count: int) -> np.ndarray:
    """float16 [count, NQ, Q], the Q-Former's rows of the same: a function of its arguments."""
    device = eyes.vision.pos_embed.device
    seen = patches.some(np.arange(first, first + count)).to(device)
    with autocast(device):
        rows = eyes.qformer(seen.float())
    return rows.float().cpu().numpy().astype(np.float16)


def size_of(recipe: DemoRecipe, shown: str) -> int:
    """The size of the pictures of a file."""
    return recipe.large_size if shown in (SHOWN["v5"], CACHED["s4"]) else recipe.small_size


def shape_of(recipe: DemoRecipe, phase: str, shown: str) -> tuple[int, int]:
    """What is kept of each picture: patches [I, E] or rows [NQ, Q]."""
    config = recipe.model_config(size_of(recipe, shown))
    assert config.vision is not None and config.qformer is not None
    if phase in (KEPT, ASKED):
        return config.vision.tokens, config.vision.width
    return config.qformer.queries, config.qformer.width


def _new_file(path: Path, shape: tuple[int, ...]) -> Any:
    """A float16 array of ``shape`` that lives in ``path``, its space claimed: a disk that fills up under a mapped file
    would kill the process. Raises CheckpointError, and leaves no file, where there is not enough."""
    try:
        kept = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
        with path.open("r+b") as file:
            reserve(file.fileno(), path.stat().st_size)
    except OSError as error:
        path.unlink(missing_ok=True)
        size = 2 * math.prod(shape)
        raise CheckpointError(f"cannot keep {size / 1e9:.2f} GB in {path}: {error.strerror or error}") from error
    return kept


def fill(session: Session, phase: str) -> None:
    """Write the files of "patches", "asked", "cache64" or "cache128", from wherever they are."""
    recipe, folder = session.recipe, session.path(phase)
    seeing = "look" if phase in CACHES else "v4"  # the tower learns nothing behind it
    progress, now = folder / _PROGRESS, marks(session, phase, (seeing, *([ASKED] if phase in CACHES else ())))
    done: dict[str, int] = {}
    seconds = 0.0
    if progress.exists():
        saved = json.loads(progress.read_text(encoding="utf-8"))
        check_marks(progress, saved["marks"], now)
        done, seconds = saved["done"], saved["seconds"]
        session.note(f"{phase}: continue from {sum(done.values())} pictures")
    eyes = load_eyes(session, seeing)
    folder.mkdir(parents=True, exist_ok=True)
    files = recipe.cached(phase)
    bar = Bar(session, phase, sum(done.values()), sum(files.values()))
    flushed = time.monotonic()
    try:
        with stop_on_interrupt() as asked:
            for shown, total in files.items():
                path, block = folder / f"{shown}.npy", _blocks(session, phase, shown, eyes)
                again = shown in done
                if again:
                    kept = np.lib.format.open_memmap(path, mode="r+")
                else:
                    kept = _new_file(path, (total, *shape_of(recipe, phase, shown)))
                at = done.get(shown, 0)
                while at < total:
                    began = time.monotonic()
                    count = min(BLOCK, total - at)
                    kept[at : at + count] = block(at, count)
                    at += count
                    seconds += time.monotonic() - began
                    done[shown] = at
                    bar.step(sum(done.values()), {}, (time.monotonic() - began) / count)
                    stopping = asked.asked or session.late()
                    if stopping or at == total or time.monotonic() - flushed > _FLUSH_SECONDS:
                        kept.flush()  # the rows first, then the word that they are there
                        write_json(progress, {"marks": now, "done": done, "seconds": round(seconds, 2)})
                        flushed = time.monotonic()
                        bar.line({"pictures": sum(done.values()), "seconds": round(seconds, 1)})
                    if asked.asked:
                        raise KeyboardInterrupt
                    if stopping:
                        raise Paused
    finally:
        bar.close()
    session.hand_on(phase, {"start": now["start"], "files": files})
    session.finish(phase, {"pictures": files, "seconds": round(seconds, 1), "recipe": recipe.digest_of(phase)})
    session.note(f"{phase}: {sum(files.values())} pictures in {seconds:.0f} s")


def _blocks(session: Session, phase: str, shown: str, eyes: Eyes) -> Callable[[int, int], np.ndarray]:
    """What gives (first, count) pictures of a file of ``phase``."""
    if phase in CACHES:
        return partial(block_rows, eyes, open_patches(session, shown))
    return partial(block_patches, eyes, session.recipe, shown, size_of(session.recipe, shown))


class Cache:
    """What one file keeps; read through the page cache, never all in memory."""

    def __init__(self, path: Path, shown: str) -> None:
        self.path, self.shown = path, shown
        try:
            self._rows: Any = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} is not a file of rows or patches: {error}") from error

    def __len__(self) -> int:
        return int(self._rows.shape[0])

    def rows(self, index: int) -> torch.Tensor:
        """f32 [NQ, Q]."""
        return torch.from_numpy(self._rows[index].astype(np.float32))

    def some(self, indices: np.ndarray) -> torch.Tensor:
        """f16 [n, I, E] or [n, NQ, Q] of int64 [n] pictures."""
        return torch.from_numpy(self._rows[indices])


def open_patches(session: Session, name: str) -> Cache:
    """The tower's patches of the pictures of ``name``."""
    return _open(session, ASKED if name in session.recipe.cached(ASKED) else KEPT, name)


def open_cache(session: Session, name: str) -> Cache:
    """The Q-Former's rows of the pictures of ``name``."""
    return _open(session, next(phase for phase in CACHES if name in session.recipe.cached(phase)), name)


def _open(session: Session, phase: str, name: str) -> Cache:
    session.weights(phase)  # raises if the phase has not ended
    return Cache(session.path(phase, f"{name}.npy"), name)
