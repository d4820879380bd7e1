"""How much memory there is, and how much of it is ours to take. Reads /proc and /sys; knows nothing of models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_UNLIMITED = 1 << 60  # cgroup v1 writes "no limit" as a huge number


@dataclass(frozen=True)
class Memory:
    """Bytes. ``limit_bytes``: the smallest limit of the control groups this process is in, None without one.
    ``usable_bytes``: what is free now and inside that limit. ``huge_pages``: the kernel's mode for them."""

    total_bytes: int
    available_bytes: int
    limit_bytes: int | None
    usable_bytes: int
    huge_pages: str


def read_memory(root: Path = Path("/")) -> Memory:
    """Memory as the kernel reports it below ``root`` (another root is for tests)."""
    fields = _meminfo(root / "proc/meminfo")
    total, available = fields["MemTotal"], fields.get("MemAvailable", fields["MemFree"])
    limit, inside = _cgroup_limit(root)
    mode = _text(root / "sys/kernel/mm/transparent_hugepage/enabled")
    chosen = mode[mode.find("[") + 1 : mode.find("]")] if mode and "[" in mode else "unknown"
    usable = available if inside is None else min(available, inside)
    return Memory(total, available, limit, max(usable, 0), chosen)


def _cgroup_limit(root: Path) -> tuple[int | None, int | None]:
    """(smallest limit, smallest limit - use) over the control groups of this process and their parents, v2 or v1."""
    limits = []
    for folder in _cgroup_folders(root):
        for limit_name, use_name in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, use = _integer(folder / limit_name), _integer(folder / use_name)
            if limit is not None and limit < _UNLIMITED:
                limits.append((limit, limit - (use or 0)))
    if not limits:
        return None, None
    return min(limit for limit, _ in limits), min(left for _, left in limits)


def _cgroup_folders(root: Path) -> list[Path]:
    """Folders under /sys/fs/cgroup that may limit this process: its own, then each parent."""
    folders: list[Path] = []
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = (line.split(":", 2) + ["", "", ""])[:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        here = base / path.strip("/")
        folders += [p for p in (here, *here.parents) if p == base or base in p.parents]
    return list(dict.fromkeys(folders))


def _meminfo(path: Path) -> dict[str, int]:
    out = {}
    for line in (_text(path) or "").splitlines():
        name, _, rest = line.partition(":")
        if rest.strip().endswith("kB"):
            out[name] = 1024 * int(rest.split()[0])
    return out


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def _integer(path: Path) -> int | None:
    text = (_text(path) or "").strip()
    return int(text) if text.isdigit() else None
