"""The table of docs/distributed.md: what training the released sizes takes of each GPU, by the memory model of
``train.stages.footprint``. Projected, not measured.

Run: python benchmarks/training_memory.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinygptv_fast.config import ModelConfig, QFormerConfig, VisionConfig
from tinygptv_fast.train.stages.config import load_stage
from tinygptv_fast.train.stages.footprint import Measured, Work, footprint, largest_rows, on_gpu
from tinygptv_fast.train.stages.world import Parallel

GB = 1_000_000_000
CARDS = (24, 80)  # GB
SETTINGS = {"frozen_dtype": "bfloat16", "recompute": True}
PLACES: tuple[tuple[Parallel | None, int], ...] = ((None, 1), ("ddp", 8), ("fsdp", 2), ("fsdp", 8))


@dataclass(frozen=True)
class Case:
    """A stage with rows of ``tokens``, ``learnt`` of which are answers."""

    stage: int
    tokens: int
    learnt: int
    image_size: int

    def measured(self, rows: int) -> Measured:
        config = ModelConfig(vision=VisionConfig(image_size=self.image_size), qformer=QFormerConfig())
        work = Work(rows, self.tokens, rows * self.learnt)
        return footprint(config, load_stage(self.stage, changes=SETTINGS), work)


#: Captions; descriptions of up to 160 tokens; conversations of up to 1,024.
CASES = (Case(2, 96, 63, 224), Case(3, 224, 160, 224), Case(4, 1088, 1024, 448))


def lines(cases: Sequence[Case] = CASES) -> list[str]:
    """The table in markdown."""
    cards = " | ".join(f"rows in {card} GB" for card in CARDS)
    out = [f"| stage, tokens a row | GPUs | GB of each, 1 row | {cards} |", "|---|---|---|" + "---|" * len(CARDS)]
    for case in cases:
        by_rows = {rows: case.measured(rows) for rows in (1, 2)}
        for kind, processes in PLACES:
            shared = {rows: measured.shared(kind, processes) for rows, measured in by_rows.items()}
            fits = [largest_rows(card * GB, shared.__getitem__) for card in CARDS]
            where = "1" if kind is None else f"{processes}, {kind.upper()}"
            need = f"{on_gpu(shared[1]) / GB:.1f}"
            out.append(f"| {case.stage}, {case.tokens:,} | {where} | {need} | {' | '.join(map(str, fits))} |")
    return out


if __name__ == "__main__":
    print("\n".join(lines()))
