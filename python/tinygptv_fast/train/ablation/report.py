"""The ablation's results: ``ablation.json`` with everything, ``ablation.md`` with the tables, ``ablation.png``."""

from __future__ import annotations

import dataclasses
import os
import platform
from pathlib import Path
from typing import Any

import torch

from ... import __version__
from ..demo.loop import Session, write_json
from ..demo.recipe import STAGES
from ..stages.report import LOG_FILE, read_log
from ..stages.state import code_digest
from .protocol import BASE, VARIANTS, AblationRecipe
from .runs import EARLIER

JSON, TABLE, PLOT = "ablation.json", "ablation.md", "ablation.png"
#: Table 4 of the paper for Phi-2: the loss at the end of each stage; None where "the gradient vanishes" or behind it.
PAPER: dict[str, tuple[float | None, ...]] = {
    "full": (2.620, 2.343, 1.125, 1.330),
    "no_lora": (2.620, None, None, None),
    "no_input_norm": (2.839, 2.555, 1.344, None),
    "no_rms_norm": (2.747, None, None, None),
    "no_qk_norm": (None, None, None, None),
}


def results(session: Session, recipe: AblationRecipe) -> dict[str, Any]:
    """Everything that was measured."""
    records = {name: {phase: session.done(f"{name}/{phase}") for phase in STAGES} for name in VARIANTS}
    return {
        "version": __version__,
        "code": code_digest(),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "recipe": recipe.to_dict(),
        "base": session.done(BASE),
        "variants": {name: dataclasses.asdict(variant) for name, variant in VARIANTS.items()},
        "records": records,
        "paper": PAPER,
    }


def table(records: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Markdown: held-out losses by stage beside the paper's, then gradients of the first and last layer's states."""
    stages = " | ".join(phase.upper() for phase in STAGES)
    lines = [f"| loss on held-out questions | {stages} | the paper |", "|---|" + "---|" * (len(STAGES) + 1)]
    for name, variant in VARIANTS.items():
        cells = [_loss(records[name][phase]) for phase in STAGES]
        paper = " / ".join("vanishes" if loss is None else f"{loss:.3f}" for loss in PAPER[name])
        lines.append(f"| {variant.title} | {' | '.join(cells)} | {paper} |")
    lines += ["", f"| gradient of the states: first, last layer | {stages} |", "|---|" + "---|" * len(STAGES)]
    for name, variant in VARIANTS.items():
        cells = [_ends(records[name][phase].get("last_states") or []) for phase in STAGES]
        lines.append(f"| {variant.title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _loss(record: dict[str, Any]) -> str:
    if record["stopped"]:
        return "–" if record["stopped"] == EARLIER else f"stopped at step {record['steps']}"
    return f"{record['held_out']:.3f}"


def _ends(states: list[float]) -> str:
    return f"{states[0]:.2g}, {states[-1]:.2g}" if states else "–"


def plot(session: Session, records: dict[str, dict[str, dict[str, Any]]], path: Path) -> None:
    """Loss over all stages, and gradients of the states by layer at the end of the first."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, variant in VARIANTS.items():
        losses = [line["loss"] for phase in STAGES for line in read_log(session.path(f"{name}/{phase}", LOG_FILE))]
        left.plot(_smooth(losses), label=variant.title, linewidth=1.2)
        states = records[name][STAGES[0]].get("last_states") or []
        right.plot(range(1, len(states) + 1), states, marker=".", label=variant.title, linewidth=1.2)
    left.set(xlabel="step, S1 to S4", ylabel="loss (running mean)", title="Training loss")
    right.set(xlabel="layer", ylabel="norm", yscale="log", title="Gradient of each layer's states, end of S1")
    left.legend(frameon=False, fontsize=8)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=120, format="png")
    pyplot.close(figure)
    os.replace(temporary, path)


def _smooth(values: list[float]) -> list[float]:
    out: list[float] = []
    for value in values:
        out.append(value if not out else 0.9 * out[-1] + 0.1 * value)
    return out


def write_report(session: Session, recipe: AblationRecipe) -> str:
    """Write all three; returns the tables."""
    found = results(session, recipe)
    text = table(found["records"])
    write_json(session.folder / JSON, found)
    temporary = session.folder / f".{TABLE}.tmp"
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, session.folder / TABLE)
    plot(session, found["records"], session.folder / PLOT)
    return text
