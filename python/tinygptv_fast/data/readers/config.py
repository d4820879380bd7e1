"""The data sets of a mixture as a json config names them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from .faults import check_limit
from .formats import FORMATS, Format

MAX_BAD = 0.01  # share of records that may be left out where the config does not say
_OWN = ("format", "ratio", "max_bad")


@dataclass(frozen=True)
class SetConfig:
    """One data set. ratio: None where the config leaves it to the stage's. max_bad: see ``Faults``."""

    name: str
    format: Format
    settings: Any
    ratio: float | None
    max_bad: float

    def to_dict(self) -> dict[str, Any]:
        """What decides the examples, paths aside: they may move."""
        kept = {
            field.name: getattr(self.settings, field.name)
            for field in dataclasses.fields(self.settings)
            if field.type not in _PATHS
        }
        return {"name": self.name, "format": self.format.name, **kept}


def read_sets(data: Any, folder: Path) -> tuple[SetConfig, ...]:
    """The sets of ``{"root": DIR, "max_bad": N, "sets": {name: {"format": ..., ...}}}``.

    folder: what a relative ``root`` is relative to, and paths where there is no root. Raises ConfigError naming the
    key.
    """
    where = "data"
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} is {type(data).__name__}, expected a json object")
    unknown = sorted(set(data) - {"root", "max_bad", "sets"}, key=str)
    if unknown:
        raise ConfigError(f"{where} has unknown keys {unknown}, expected 'root', 'max_bad' and 'sets'")
    sets = data.get("sets")
    if not isinstance(sets, Mapping) or not sets:
        raise ConfigError(f"{where}.sets is {sets!r:.60}, expected an object of data sets by name")
    root = folder / _path(data.get("root", "."), f"{where}.root")
    limit = check_limit(data.get("max_bad", MAX_BAD), f"{where}.max_bad")
    return tuple(_set(name, each, root, limit) for name, each in sets.items())


def _set(name: str, data: Any, root: Path, limit: float) -> SetConfig:
    where = f"data.sets.{name}"
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} is {type(data).__name__}, expected a json object")
    format = FORMATS.get(str(data.get("format")))
    if format is None:
        raise ConfigError(f"{where}.format is {data.get('format')!r}, expected one of {', '.join(FORMATS)}")
    ratio = data.get("ratio")
    good = not isinstance(ratio, bool) and isinstance(ratio, (int, float)) and math.isfinite(ratio) and ratio > 0
    if ratio is not None and not good:
        raise ConfigError(f"{where}.ratio is {ratio!r}, expected a number > 0")
    max_bad = check_limit(data["max_bad"], f"{where}.max_bad") if "max_bad" in data else limit
    rest = {key: value for key, value in data.items() if key not in _OWN}
    return SetConfig(name, format, _settings(format, rest, root, where), ratio, max_bad)


def _settings(format: Format, data: Mapping[str, Any], root: Path, where: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(format.settings)}
    unknown = sorted(set(data) - set(fields), key=str)
    missing = [name for name, field in fields.items() if field.default is dataclasses.MISSING and name not in data]
    if unknown or missing:
        raise ConfigError(
            f"{where} has unknown keys {unknown} and lacks {missing}; format {format.name!r} has {', '.join(fields)}"
        )
    values = {name: _value(str(fields[name].type), value, root, f"{where}.{name}") for name, value in data.items()}
    try:
        return format.settings(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}.{error}") from None


def _value(kind: str, value: Any, root: Path, where: str) -> Any:
    """``value`` as a field of type ``kind``; paths are relative to ``root``."""
    if kind == "Path | None" and value is None:
        return None
    if kind in ("Path", "Path | None"):
        return root / _path(value, where)
    if kind == "tuple[Path, ...]":
        values = value if isinstance(value, list) and value else [value]
        return tuple(root / _path(each, where) for each in values)
    wanted, expected = _PLAIN[kind]
    if type(value) is not wanted:
        raise ConfigError(f"{where} is {value!r:.60}, expected {expected}")
    return value


_PATHS = ("Path", "Path | None", "tuple[Path, ...]")
_PLAIN: dict[str, tuple[type, str]] = {
    "str": (str, "text"),
    "bool": (bool, "true or false"),
    "int": (int, "a whole number"),
}


def _path(value: Any, where: str) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ConfigError(f"{where} is {value!r:.60}, expected a path")
    return Path(value).expanduser()
