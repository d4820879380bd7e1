"""The paper's result and efficiency tables, as printed (``paper.json``)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from ..errors import ConfigError


@dataclass(frozen=True)
class Reported:
    """One model as the paper reports it. size: billions of parameters of its language model. accuracies: percent, by
    column of the result table. Speed and memory are known of three models only."""

    model: str
    size: float
    accuracies: dict[str, float]
    average: float | None
    seconds_per_word: float | None
    memory_gb: float | None


@dataclass(frozen=True)
class Paper:
    """Both tables joined by model, and what must be said with them."""

    source: str
    columns: tuple[str, ...]
    models: tuple[Reported, ...]
    grounding: dict[str, Any]
    notes: tuple[str, ...]


def read_paper() -> Paper:
    """The tables that ship with the package."""
    data = json.loads(files(__package__).joinpath("paper.json").read_text("utf-8"))
    columns = tuple(data["columns"])
    efficiency = {row["model"]: row for row in data["efficiency"]}
    unknown = set(efficiency) - {row["model"] for row in data["results"]}
    if unknown:
        raise ConfigError(f"paper.json has efficiency of {sorted(unknown)}, expected models of its results")
    models = tuple(_reported(row, columns, efficiency.get(row["model"], {})) for row in data["results"])
    return Paper(data["source"], columns, models, data["grounding"], tuple(data["notes"]))


def _reported(row: dict[str, Any], columns: tuple[str, ...], efficiency: dict[str, Any]) -> Reported:
    return Reported(
        row["model"],
        float(row["size"]),
        {column: float(row[column]) for column in columns if column in row},
        row.get("average"),
        efficiency.get("seconds_per_word"),
        efficiency.get("memory_gb"),
    )
