"""What this machine is: instruction sets, cores, memory and its limits, read bandwidth, GPU, versions.

Everything is measured or read from the system; predictions are in ``settings``. Needs the native core, not torch.
"""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from ..memory import Memory, read_memory

_PACKAGES = (
    "tinygptv_fast",
    "torch",
    "numpy",
    "pillow",
    "safetensors",
    "tokenizers",
    "huggingface_hub",
    "typer",
    "rich",
)


@dataclass(frozen=True)
class Machine:
    """One machine, as found. ``read_bandwidth`` is bytes per second with ``threads`` threads, None if not measured."""

    cpu: str
    instruction_sets: dict[str, bool]
    logical_cpus: int
    physical_cores: int
    cpu_quota: float | None
    threads: int
    memory: Memory
    read_bandwidth: float | None
    cuda_built: bool
    cuda_why_not: str
    gpus: list[dict[str, Any]]
    native: dict[str, str]
    python: str
    platform: str
    packages: dict[str, str | None]

    def to_dict(self) -> dict[str, Any]:
        """A json-ready dict."""
        return asdict(self)


def inspect_machine(threads: int | None = None, *, measure_bandwidth: bool = True) -> Machine:
    """Look at this machine. ``threads`` None: the physical cores this process may use. The bandwidth takes about a
    second and half a gigabyte of memory."""
    from .. import _native

    cores = _native.physical_cores()
    used = cores if threads is None else threads
    why_not = _native.cuda_why_not()
    gpus = [] if why_not else [_native.cuda_device_info(i) for i in range(_native.cuda_device_count())]
    return Machine(
        cpu=_native.cpu_brand(),
        instruction_sets=dict(_native.cpu_features()),
        logical_cpus=len(_native.affinity_cpus()),
        physical_cores=cores,
        cpu_quota=_native.cgroup_cpu_quota() or None,
        threads=used,
        memory=read_memory(),
        read_bandwidth=_native.read_bandwidth(threads=used) if measure_bandwidth else None,
        cuda_built=_native.cuda_built(),
        cuda_why_not=why_not,
        gpus=gpus,
        native=dict(_native.build_info()),
        python=platform.python_version(),
        platform=platform.platform(),
        packages={name: _version(name) for name in _PACKAGES},
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
