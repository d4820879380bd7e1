"""The one module that reads environment variables. Bad values raise; nothing is cached, nothing imports torch.

| variable | meaning |
|---|---|
| ``TINYGPTV_THREADS`` | threads for computation, 1..1024; unset means the physical cores this process may use |
| ``TINYGPTV_CPU_ISA`` | portable, avx2, avxvnni, avx512 or avx512vnni instead of the widest this CPU has |
| ``TINYGPTV_CACHE_DIR`` | where packed weights are kept; unset: ``tinygptv_fast`` in XDG_CACHE_HOME or ~/.cache |
| ``TINYGPTV_CACHE_GB`` | most that the packed weights may take there, in 10^9 bytes; 20 by default, 0 keeps none |
| ``TINYGPTV_IMAGE_CACHE_MB`` | most that encoded pictures may take in memory, 10^6 bytes; 64 by default, 0 keeps none |
| ``TINYGPTV_LOG`` | log level of the command line: debug, info, warning (the default), error |
| ``TINYGPTV_TRACEBACK`` | 1 shows the traceback of an unexpected error in the command line; 0 (the default) one line |
| ``TINYGPTV_CUDA_EMULATION`` | for tests: path of the CUDA library compiled for the CPU, which device="cuda" runs on |
| ``TINYGPTV_CUDA_GRAPHS`` | 0 launches a GPU's decode steps kernel by kernel; 1 (the default) as captured graphs |
| ``TINYGPTV_CUDA_EARLY_STARTS`` | 0: no kernel of a GPU starts before the one before it is over; 1 (the default) |
| ``HF_ENDPOINT`` | the hub that 'tinygptv fetch' asks: https://huggingface.co, or a mirror of it |
| ``HF_HUB_OFFLINE`` | 1, on, yes or true: 'tinygptv fetch' asks no server |
| ``NO_COLOR`` | set and not empty: no colour in the terminal (https://no-color.org) |
| ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``LOCAL_WORLD_SIZE`` | set by torchrun: which process of a run this is |
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import ConfigError

PREFIX = "TINYGPTV_"
LOG_LEVELS = ("debug", "info", "warning", "error")
MAX_THREADS = 1024
_MAX_AMOUNT = 1_000_000
CPU_ISAS = ("portable", "avx2", "avxvnni", "avx512", "avx512vnni")
_KNOWN = (
    "TINYGPTV_THREADS",
    "TINYGPTV_CPU_ISA",
    "TINYGPTV_CACHE_DIR",
    "TINYGPTV_CACHE_GB",
    "TINYGPTV_IMAGE_CACHE_MB",
    "TINYGPTV_LOG",
    "TINYGPTV_TRACEBACK",
    "TINYGPTV_CUDA_EMULATION",
    "TINYGPTV_CUDA_GRAPHS",
    "TINYGPTV_CUDA_EARLY_STARTS",
)
HUB = "https://huggingface.co"
_HUB_TRUE, _HUB_FALSE = ("1", "ON", "YES", "TRUE"), ("", "0", "OFF", "NO", "FALSE")  # as the hub's own library reads it
_BUILD_ONLY = ("TINYGPTV_CUDA",)  # read by CMake, not by us


@dataclass(frozen=True)
class Settings:
    """What the environment asks for. ``unknown`` lists variables with our prefix that mean nothing (typing errors)."""

    threads: int | None = None
    cpu_isa: str = ""  # empty: the widest
    cache_dir: Path | None = None  # None: there is no home directory
    cache_bytes: int = 20 * 10**9  # 0: keep nothing
    image_cache_bytes: int = 64 * 10**6  # 0: keep nothing
    log_level: str = "warning"
    traceback: bool = False
    color: bool = True
    cuda_emulation: str = ""  # empty: none
    cuda_graphs: bool = True
    cuda_early_starts: bool = True
    hub_endpoint: str = HUB  # no slash at the end
    hub_offline: bool = False
    unknown: tuple[str, ...] = ()


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings of ``environment`` (default: the process's). Raises ``ConfigError`` naming the variable."""
    given = os.environ if environment is None else environment
    return Settings(
        threads=_threads(given.get("TINYGPTV_THREADS", "")),
        cpu_isa=_one_of("TINYGPTV_CPU_ISA", given.get("TINYGPTV_CPU_ISA", ""), CPU_ISAS, ""),
        cache_dir=_cache_dir(given),
        cache_bytes=_amount("TINYGPTV_CACHE_GB", given.get("TINYGPTV_CACHE_GB", ""), 20.0, 10**9),
        image_cache_bytes=_amount("TINYGPTV_IMAGE_CACHE_MB", given.get("TINYGPTV_IMAGE_CACHE_MB", ""), 64.0, 10**6),
        log_level=_one_of("TINYGPTV_LOG", given.get("TINYGPTV_LOG", ""), LOG_LEVELS, "warning"),
        traceback=_one_of("TINYGPTV_TRACEBACK", given.get("TINYGPTV_TRACEBACK", ""), ("0", "1"), "0") == "1",
        color=not given.get("NO_COLOR", ""),
        cuda_emulation=given.get("TINYGPTV_CUDA_EMULATION", ""),
        cuda_graphs=_switch("TINYGPTV_CUDA_GRAPHS", given),
        cuda_early_starts=_switch("TINYGPTV_CUDA_EARLY_STARTS", given),
        hub_endpoint=_hub_endpoint(given.get("HF_ENDPOINT", "")),
        hub_offline=_hub_offline(given.get("HF_HUB_OFFLINE", "")),
        unknown=tuple(sorted(n for n in given if n.startswith(PREFIX) and n not in _KNOWN + _BUILD_ONLY)),
    )


def cuda_emulation() -> str:
    """``read_settings().cuda_emulation``, which every op asks for, without reading the others."""
    return os.environ.get("TINYGPTV_CUDA_EMULATION", "")


def _switch(name: str, given: Mapping[str, str]) -> bool:
    """On unless it is 0."""
    return _one_of(name, given.get(name, ""), ("0", "1"), "1") == "1"


@dataclass(frozen=True)
class Place:
    """Which process of how many this is, in all and on this machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def torchrun_place(environment: Mapping[str, str] | None = None) -> Place | None:
    """Where torchrun put this process; None if torchrun did not start it. Raises ``ConfigError`` for half a place."""
    given = os.environ if environment is None else environment
    if "RANK" not in given and "WORLD_SIZE" not in given:
        return None
    size, local_size = _place(given, "WORLD_SIZE", 1, None), _place(given, "LOCAL_WORLD_SIZE", 1, None)
    return Place(_place(given, "RANK", 0, size), size, _place(given, "LOCAL_RANK", 0, local_size), local_size)


def _place(given: Mapping[str, str], name: str, least: int, below: int | None) -> int:
    text = given.get(name, "")
    good = text.isascii() and text.isdigit() and len(text) <= 7
    if not (good and least <= int(text) and (below is None or int(text) < below)):
        most = "" if below is None else f" below {below}"
        raise ConfigError(f"{name} is {text[:40]!r}, expected an integer >= {least}{most}, as torchrun sets it")
    return int(text)


def let_torch_wait_passively() -> None:
    """Keep torch's idle OpenMP threads from spinning. Effective only before torch is imported; a value set by the
    user stays."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _threads(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= MAX_THREADS and len(text) <= 6):
        raise ConfigError(f"TINYGPTV_THREADS is {text[:40]!r}, expected an integer 1..{MAX_THREADS}")
    return int(text)


def _cache_dir(given: Mapping[str, str]) -> Path | None:
    if given.get("TINYGPTV_CACHE_DIR"):
        return Path(given["TINYGPTV_CACHE_DIR"])
    base = given.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # the XDG specification: a relative path is to be ignored
        return Path(base) / "tinygptv_fast"
    home = given.get("HOME", "")
    return Path(home) / ".cache" / "tinygptv_fast" if home else None


def _amount(name: str, text: str, default: float, unit: int) -> int:
    """``text`` in units of ``unit`` bytes, as bytes."""
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 <= value <= _MAX_AMOUNT:
        raise ConfigError(f"{name} is {text[:40]!r}, expected a number 0..{_MAX_AMOUNT}")
    return int(value * unit)


def _hub_endpoint(text: str) -> str:
    if text and not re.fullmatch(r"https?://[^\s/]+(/[^\s]*)?", text):
        raise ConfigError(f"HF_ENDPOINT is {text[:80]!r}, expected an address like {HUB}")
    return text.rstrip("/") or HUB


def _hub_offline(text: str) -> bool:
    if text.upper() not in _HUB_TRUE + _HUB_FALSE:
        raise ConfigError(f"HF_HUB_OFFLINE is {text[:40]!r}, expected 1 or 0")
    return text.upper() in _HUB_TRUE


def _one_of(name: str, text: str, allowed: tuple[str, ...], default: str) -> str:
    if not text:
        return default
    if text not in allowed:
        raise ConfigError(f"{name} is {text[:40]!r}, expected one of {', '.join(allowed)}")
    return text
