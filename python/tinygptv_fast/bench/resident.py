"""Memory of this process. Imports nothing heavy: a fresh process asks it first."""

from __future__ import annotations

from ..errors import TinyGPTVError


def resident_bytes(field: str = "VmRSS") -> int:
    """``field`` of /proc/self/status in bytes: VmRSS, or VmHWM for the most so far."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith(f"{field}:"):
                return 1024 * int(line.split()[1])
    raise TinyGPTVError(f"/proc/self/status has no {field}")
