"""What the frozen vision side says of the pictures of the stages, once for all: the Q-Former's rows in float16.

Picture i of a file is scene i of its stage (``scenes_of(recipe, stage, 0, [i])``). Rows are computed in blocks of 64
that begin at multiples of 64, so that a picture's rows do not depend on where the run was stopped.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import CheckpointError
from ..precision import autocast
from ..stages.interrupt import stop_on_interrupt
from .loop import Bar, Paused, Session, check_marks, marks, write_json
from .pictures import Eyes, pixels_of, scenes_of
from .recipe import CACHES, SEEING, DemoRecipe
from .seeing import load_eyes

BLOCK = 64
_PATH = 4  # apart from the phases of ``seeing``
_FLUSH_SECONDS = 30.0
_PROGRESS = "progress.json"


@torch.no_grad()
def block_rows(eyes: Eyes, recipe: DemoRecipe, shown: str, size: int, first: int, count: int) -> np.ndarray:
    """float16 [count, NQ, Q] of pictures ``first`` and on: a function of its arguments alone."""
    scenes = scenes_of(recipe, shown, 0, range(first, first + count))
    device = eyes.vision.pos_embed.device
    pixels = pixels_of(recipe, scenes, size, _PATH, size, first).to(device)
    with autocast(device):
        rows = eyes(pixels)
    return rows.float().cpu().numpy().astype(np.float16)


def fill(session: Session, phase: str) -> None:
    """Write the files of "cache64" or "cache128", from wherever they are."""
    recipe, folder = session.recipe, session.path(phase)
    size = recipe.small_size if phase == CACHES[0] else recipe.large_size
    progress, now = folder / _PROGRESS, marks(session, phase, SEEING[-1:])
    done: dict[str, int] = {}
    seconds = 0.0
    if progress.exists():
        saved = json.loads(progress.read_text(encoding="utf-8"))
        check_marks(progress, saved["marks"], now)
        done, seconds = saved["done"], saved["seconds"]
        session.note(f"{phase}: continue from {sum(done.values())} pictures")
    eyes = load_eyes(session)
    folder.mkdir(parents=True, exist_ok=True)
    files = recipe.cached(phase)
    shape = (16, recipe.vision_width)
    bar = Bar(session, phase, sum(done.values()), sum(files.values()))
    flushed = time.monotonic()
    try:
        with stop_on_interrupt() as asked:
            for shown, total in files.items():
                path = folder / f"{shown}.npy"
                again = shown in done
                if again:
                    kept = np.lib.format.open_memmap(path, mode="r+")
                else:
                    kept = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(total, *shape))
                at = done.get(shown, 0)
                while at < total:
                    began = time.monotonic()
                    count = min(BLOCK, total - at)
                    kept[at : at + count] = block_rows(eyes, recipe, shown, size, at, count)
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


class Cache:
    """The rows of one file; read through the page cache, never all in memory."""

    def __init__(self, path: Path, shown: str) -> None:
        self.path, self.shown = path, shown
        try:
            self._rows: Any = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} is not a file of cached rows: {error}") from error

    def __len__(self) -> int:
        return int(self._rows.shape[0])

    def rows(self, index: int) -> torch.Tensor:
        """f32 [NQ, Q]."""
        return torch.from_numpy(self._rows[index].astype(np.float32))


def open_cache(session: Session, name: str) -> Cache:
    """The cached rows of stage ``name``'s pictures."""
    phase = next(phase for phase in CACHES if name in session.recipe.cached(phase))
    session.weights(phase)  # raises if the phase has not ended
    return Cache(session.path(phase, f"{name}.npy"), name)
