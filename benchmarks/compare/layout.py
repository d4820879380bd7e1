"""The work folder and the prompts. Standard library alone: every engine's environment imports this.

    WORK/venv-<peer>/            one environment per peer, from requirements/<peer>.txt
    WORK/models/                 the checkpoint and what each engine's converter made of it
    WORK/words.json              tokens that prompts are made of
    WORK/reference.npz           float32 logits of the three prompts of the accuracy row
    WORK/accuracy.jsonl          one row per engine: its logits against these
    WORK/race-<time>.jsonl       one line per measurement

Prompts are random words and marks in turn, one token each, whose text is tokenised to the same tokens again: engines
that take ids and those that take text get the same. No prompt occurs twice in a process, so a
cache of prefixes can find nothing.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

CHECKPOINT = "phi2-hf"
ACCURACY_PROMPTS, ACCURACY_TOKENS = 3, 64


@dataclass(frozen=True)
class Prompt:
    """Token ids and the text that is tokenised to exactly these."""

    ids: list[int]
    text: str


class Words:
    """Makes prompts from ``words.json``: {"words": [[id, text], ...], "marks": [[id, text], ...]}."""

    def __init__(self, work: Path) -> None:
        data = json.loads((work / "words.json").read_text(encoding="utf-8"))
        self._kinds: list[list[tuple[int, str]]] = [data["words"], data["marks"]]

    def prompt(self, tokens: int, seed: str) -> Prompt:
        source = random.Random(f"{seed}/{tokens}")
        chosen = [source.choice(self._kinds[place % 2]) for place in range(tokens)]
        return Prompt([index for index, _ in chosen], "".join(text for _, text in chosen))

    def accuracy_prompts(self) -> list[Prompt]:
        return [self.prompt(ACCURACY_TOKENS, f"accuracy {index}") for index in range(ACCURACY_PROMPTS)]


def models(work: Path) -> Path:
    return work / "models"


def python_of(work: Path, environment: str) -> Path:
    """The interpreter of a peer's environment."""
    return work / f"venv-{environment}" / "bin" / "python"
