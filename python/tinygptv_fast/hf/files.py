"""The small files of a model directory, kept as they are: what a processor is made of, and what it writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.directory import read_template
from ..checkpoint.files import read_json_object
from ..config import ModelConfig
from ..errors import CheckpointError, ConfigError
from ..processing.templates import Template

_FILES = ("config.json", "tokenizer.json", "generation_config.json", "chat_template.jinja")
_PREPROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True)
class ModelFiles:
    """texts: name → content. preprocessor: the object of its file, None for a model of text."""

    path: Path
    texts: dict[str, str]
    config: ModelConfig
    template: Template
    preprocessor: dict[str, Any] | None

    @property
    def queries(self) -> int:
        """NQ, visual tokens of a picture; 0 for a model of text."""
        return 0 if self.config.qformer is None else self.config.qformer.queries

    def write(self, directory: Path, names: tuple[str, ...] | None = None) -> list[str]:
        """Write the files, or those of ``names``, to a directory that is made where it is missing; their paths."""
        directory.mkdir(parents=True, exist_ok=True)
        paths = []
        for name, text in self.texts.items():
            if names is None or name in names:
                (directory / name).write_bytes(text.encode())
                paths.append(str(directory / name))
        return paths


def read_files(path: Path) -> ModelFiles:
    """Raises CheckpointError for a file that is missing, ConfigError for one that says something else."""
    texts = {name: _read(path, name) for name in _FILES}
    data = read_json_object(path / "config.json")
    if data.get("model_type") != "tinygptv":
        raise CheckpointError(
            f"{path / 'config.json'} has model_type {data.get('model_type')!r}, expected 'tinygptv'; "
            "original files are converted first: 'tinygptv convert'"
        )
    try:
        config = ModelConfig.from_dict(data)
    except ConfigError as error:
        raise ConfigError(f"{path / 'config.json'}: {error}") from error
    preprocessor = None
    if config.vision is not None:
        texts[_PREPROCESSOR] = _read(path, _PREPROCESSOR)
        preprocessor = read_json_object(path / _PREPROCESSOR)
    template = read_template(read_json_object(path / "generation_config.json"), path / "generation_config.json")
    return ModelFiles(path, texts, config, template, preprocessor)


def _read(path: Path, name: str) -> str:
    try:
        return (path / name).read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise CheckpointError(f"{path} has no {name}; expected a directory written by 'tinygptv convert'") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path / name} cannot be read ({error})") from error
