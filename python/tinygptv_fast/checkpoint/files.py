"""Opens weight files by what they are: one file, or the shards listed in an ``*.index.json``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .safetensors_file import SafetensorsFile
from .table import TableEntry, TensorTable
from .torch_file import TorchFile

MAX_JSON_BYTES = 64 * 1024 * 1024
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Parse a json file; every failure is a ``CheckpointError`` naming it. Duplicate keys and sizes are bounded."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path} has {path.stat().st_size} bytes, more than any json file of a model")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as json: {error}") from error


def read_json_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a json {type(value).__name__}, expected an object")
    return value


def safetensors_table(path: str | os.PathLike[str]) -> TensorTable:
    file = SafetensorsFile(path)
    return TensorTable(
        file.path,
        [TableEntry(file.path, name, file.info(name), lambda n=name: file.tensor(n)) for name in file.names()],  # type: ignore[misc]
    )


def open_table(path: str | os.PathLike[str]) -> TensorTable:
    """The tensors of one weight file, whose kind is told by its name."""
    path = Path(path)
    if path.suffix == ".safetensors":
        return safetensors_table(path)
    file = TorchFile(path)
    return file.table(file.root)


def open_weights(directory: str | os.PathLike[str]) -> TensorTable:
    """The weights of a Hugging Face style directory: one file or shards, safetensors preferred over pickles."""
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is not a directory; expected one with config.json and weights")
    for name in _WEIGHTS:
        if (directory / name).is_file():
            return _open_shards(directory / name) if name.endswith(".index.json") else open_table(directory / name)
    raise CheckpointError(f"{directory} holds none of {', '.join(_WEIGHTS)}")


def _open_shards(index: Path) -> TensorTable:
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map")
    shards: dict[str, TensorTable] = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard or shard in ("", ".", "..") or "\\" in shard:
            raise CheckpointError(f"{index}: tensor {name!r} is placed in {shard!r}, expected a file beside the index")
        if shard not in shards:
            shards[shard] = open_table(index.parent / shard)
        if name not in shards[shard]:
            raise CheckpointError(
                f"{index}: tensor {name!r} should be in {index.parent / shard}, which has no such tensor"
            )
    table = TensorTable(index, [entry for shard in shards.values() for entry in shard.entries()])
    unlisted = sorted(set(table.names()) - set(weight_map))
    if unlisted:
        raise CheckpointError(f"{index} does not list {len(unlisted)} tensors of its shards: {unlisted[:5]}")
    return table
