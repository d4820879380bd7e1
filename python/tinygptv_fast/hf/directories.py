"""Names of model directories, and which arguments of transformers' ``from_pretrained`` mean nothing here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, InvalidArgumentError, UnsupportedError
from ..generate.loading import locate
from ..generate.names import check_names

HUB = ("revision", "token", "cache_dir", "local_files_only")
_NOTHING = (None, False)
# Arguments that auto classes, pipelines and users' scripts pass along: values that ask for nothing, what to do instead.
_IDLE: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "trust_remote_code": ((None, False, True), ""),
    "low_cpu_mem_usage": ((None, False, True), ""),
    "use_fast": ((None, False, True), ""),
    "resume_download": ((None, False, True), ""),
    "code_revision": ((None, "main"), "no code is loaded"),
    "force_download": (_NOTHING, "remove the hub's cache instead"),
    "proxies": ((None, {}), "set HTTPS_PROXY instead"),
    "subfolder": ((None, ""), "name the folder itself"),
    "quantization_config": ((None,), "convert the model with the quantisation, or give quantization="),
    "attn_implementation": ((None,), "leave it out: attention is the native core's"),
    "use_safetensors": ((None, True), "weights are safetensors"),
    "variant": ((None,), "name the directory with the weights"),
    "output_loading_info": (_NOTHING, "every tensor is checked by name and shape, or loading raises"),
    "state_dict": ((None,), "weights are those of the directory"),
    "offload_folder": ((None,), "leave it out"),
    "max_memory": ((None,), "leave it out"),
    "tp_plan": ((None,), "leave it out"),
    "device_map": ((None, "cpu", "auto", {"": "cpu"}), "weights are packed for the CPU"),
}


def find_directory(name: Any) -> str:
    """``name`` as transformers can read it: "demo" is the shipped model's directory, all else stays as it is.

    Raises InvalidArgumentError for what is no path or id.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise InvalidArgumentError(
            f"pretrained_model_name_or_path is {type(name).__name__}, expected a directory, 'demo' or a hub id"
        )
    if name == "demo":
        return str(locate("demo", revision=None, token=None, cache_dir=None, local_files_only=True))
    return os.fspath(name)


def fetch_directory(name: Any, hub: Mapping[str, Any]) -> Path:
    """The directory on disk. hub: any of ``HUB``. Raises CheckpointError."""
    found = locate(
        find_directory(name),
        revision=hub.get("revision"),
        token=hub.get("token"),
        cache_dir=hub.get("cache_dir"),
        local_files_only=bool(hub.get("local_files_only")),
    )
    if not found.is_dir():
        raise CheckpointError(f"{found} is not a directory; expected a converted model")
    return found


def check_load(where: str, given: dict[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
    """``given`` without what asks for nothing: arguments named in ``known`` or ``HUB``.

    Raises UnsupportedError naming what cannot be done, InvalidArgumentError for a name that nothing has.
    """
    kept: dict[str, Any] = {}
    for name, value in given.items():
        if name.startswith("_") or name == "adapter_kwargs":  # of auto classes and pipelines among themselves
            if name == "adapter_kwargs" and "_adapter_model_path" in (value or {}):
                raise UnsupportedError(
                    "the directory holds an adapter, expected adapter= with it, and its model's path"
                )
            continue
        if name in _IDLE and name not in known:
            nothing, instead = _IDLE[name]
            if not any(value is none or value == none for none in nothing):
                raise UnsupportedError(f"{name} is {value!r}, which cannot be done: {instead}")
            continue
        check_names(where, [name], (*known, *HUB, *_IDLE))
        kept[name] = value
    return kept
