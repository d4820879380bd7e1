"""Files compiled for one instruction set must not export anything that another CPU could be made to run.

An inline function or template that such a file instantiates is a weak symbol; the linker keeps one copy for the whole
program, perhaps this one, and an older CPU then meets an illegal instruction far away from any dispatch.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from .conftest import find_tool

WEAK = set("WwVvu")


def weak_symbols(listing: str) -> list[str]:
    """Defined weak (or unique) symbols in the output of ``nm``."""
    out = []
    for line in listing.splitlines():
        words = line.split(maxsplit=2)
        if len(words) == 3 and words[1] in WEAK:  # an undefined weak symbol has no address, so two words
            out.append(words[2])
    return out


def isa_objects(build: Path) -> list[Path]:
    return sorted(build.glob("**/tgv_isa_*.dir/**/*.o"))


def test_isa_objects_have_no_weak_symbols(cpp_build: Path, repository: Path) -> None:
    objects = isa_objects(cpp_build)
    declared = "tgv_add_isa_sources(" in (repository / "csrc/kernels/cpu/sources.cmake").read_text(encoding="utf-8")
    assert bool(objects) == declared
    for path in objects:
        listing = subprocess.run([find_tool("nm"), "-C", path], capture_output=True, text=True, check=True).stdout
        assert weak_symbols(listing) == [], f"{path.name} defines weak symbols"


def test_a_weak_symbol_is_seen(tmp_path: Path) -> None:
    source = tmp_path / "bad.cc"
    source.write_text("#include <vector>\nint size(std::vector<int>& v) { v.push_back(1); return v.size(); }\n")
    subprocess.run([find_tool("g++"), "-std=c++20", "-O0", "-c", source, "-o", tmp_path / "bad.o"], check=True)
    listing = subprocess.run(
        [find_tool("nm"), "-C", tmp_path / "bad.o"], capture_output=True, text=True, check=True
    ).stdout
    assert weak_symbols(listing)
