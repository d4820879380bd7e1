"""``training_log.json``, shipped beside the model: the recipe, every phase's log, every figure of the report."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ...data.world.lexicon import HELD_OUT_PAIRS, HELD_OUT_WORDS
from .loop import LOG, Session
from .recipe import PHASES, SHIPPED

FILE_NAME = "training_log.json"
_EXAMS = "exams.jsonl"
_EVERY = 100  # steps between the lines that are kept; exams are all kept


def write_log(session: Session, directory: Path, figures: Mapping[str, Any]) -> None:
    """Leave the log of the run, as far as it has come, in ``directory``, by way of a temporary beside it."""
    records = {phase: session.done(phase) for phase in PHASES[:-1]}
    phases = {phase: record for phase, record in records.items() if record is not None}
    record = {
        "recipe": session.recipe.to_dict(),
        "phases": phases,
        "seconds": round(sum(done["seconds"] for done in phases.values()), 1),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "quantization": dataclasses.asdict(SHIPPED),
        "held_out_pairs": sorted(" ".join(pair) for pair in HELD_OUT_PAIRS),
        "held_out_words": sorted(HELD_OUT_WORDS),
        "figures": dict(figures),
    }
    lines = ",\n  ".join(json.dumps(line) for line in _lines(session))
    rest = json.dumps({**record, "log": []}, indent=1)
    temporary = directory / f".{FILE_NAME}.tmp"
    temporary.write_text(rest.replace('"log": []', f'"log": [\n  {lines}\n ]') + "\n", encoding="utf-8")
    os.replace(temporary, directory / FILE_NAME)


def _lines(session: Session) -> Iterator[dict[str, Any]]:
    """A line an entry: readable, and a diff shows what changed."""
    for phase in PHASES:
        for name in (LOG, _EXAMS):
            path = session.path(phase, name)
            if path.is_file():
                for text in path.read_text(encoding="utf-8").splitlines():
                    line = json.loads(text)
                    if "exam" in line or line.get("step", 0) % _EVERY == 0:
                        yield {"phase": phase, **line}
