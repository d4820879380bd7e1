"""Holds the C++ include graph and the Python import graph to the order of docs/architecture.md: imports point left.

The orders are read from that file: the code line that begins with ``errors`` (Python modules under
``tinygptv_fast``) and the one that begins with ``base`` (folders under ``csrc``). A module may import only what stands
to its left, whether levels are divided by an arrow, a comma or a bar. Imports inside functions count as well; only
those under ``if TYPE_CHECKING`` do not. The package's own ``__init__`` names everything and may import all.

Knows file names and import statements, nothing else. Exit code 1 and one line per violation.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "tinygptv_fast"
# (importer, imported) that the order alone would allow: the oracle must not rest on what it checks, and serving builds
# no nn.Module.
FORBIDDEN = {("reference", "ops"), ("reference", "_native"), ("engine", "reference"), ("vision", "reference")}
# Folders of csrc beside the levels: tests and the host emulation stand on top of everything.
CPP_ON_TOP = {"simt", "tests"}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


@dataclass(frozen=True)
class Edge:
    """``where`` (file:line) in module ``importer`` imports module ``imported``."""

    where: str
    importer: str
    imported: str


def read_order(document: Path, first: str) -> list[str]:
    """The names of the code line that starts with ``first`` and has arrows, left to right."""
    for line in document.read_text(encoding="utf-8").splitlines():
        text = line.strip().strip("`")
        if re.match(rf"{first}\b", text) and "→" in text:
            return [name for name in re.split(r"[→,|()\s]+", text) if name]
    raise SystemExit(f"{document}: no line that starts with '{first}' and gives the order with arrows")


# --- Python -----------------------------------------------------------------------------------------------------------
def _without_type_checking(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below ``node``, except the bodies of ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from _without_type_checking(other)
            continue
        yield child
        yield from _without_type_checking(child)


def _imported_names(node: ast.AST, package: list[str]) -> Iterator[str]:
    """Dotted names that an import statement in a module of ``package`` (its dotted path, split) brings in."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else []
        module = [*base, *(node.module.split(".") if node.module else [])]
        # 'from . import x' may name a module or an attribute of the package: only the former matters, and
        # 'from .x import y' is settled by x; so the names count only when the package itself is what is imported from.
        if module == [PACKAGE]:
            yield from (f"{PACKAGE}.{alias.name}" for alias in node.names)
        else:
            yield ".".join(module)


def python_edges(root: Path) -> Iterator[Edge]:
    """Edges between top-level modules of the package at ``root`` (the folder named tinygptv_fast)."""
    modules = {path.stem for path in root.iterdir() if path.suffix == ".py" or path.is_dir()} | {"_native"}
    for path in sorted(root.rglob("*.py")):
        parts = list(path.relative_to(root).with_suffix("").parts)
        importer = parts[0]
        if importer in ("__init__", "__main__"):
            continue
        package = [PACKAGE, *parts[:-1]]  # of a module and of a package's __init__ alike
        for node in _without_type_checking(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            for name in _imported_names(node, package):
                top, _, rest = name.partition(".")
                imported = rest.split(".")[0]
                if top == PACKAGE and imported in modules and imported != importer:
                    yield Edge(f"{path.relative_to(root.parent)}:{getattr(node, 'lineno', 0)}", importer, imported)


# --- C++ --------------------------------------------------------------------------------------------------------------
def cpp_edges(root: Path) -> Iterator[Edge]:
    """Edges between the folders of ``root`` (csrc). Includes are written from csrc, or beside the including file."""
    for path in sorted(p for p in root.rglob("*") if p.suffix in {".h", ".cc", ".cu", ".cuh"}):
        importer = path.relative_to(root).parts[0]
        text = path.read_text(encoding="utf-8")
        for match in INCLUDE.finditer(text):
            target = root / match[1]
            if not target.exists() and (path.parent / match[1]).exists():
                continue  # beside the file, so of the same level
            imported = Path(match[1]).parts[0]
            if target.exists() and imported != importer:
                line = text.count("\n", 0, match.start()) + 1
                yield Edge(f"{path.relative_to(root.parent)}:{line}", importer, imported)


# --- the rule ---------------------------------------------------------------------------------------------------------
def violations(edges: Iterator[Edge], order: list[str], on_top: frozenset[str] = frozenset()) -> list[str]:
    """One sentence per edge that does not point left in ``order``, or that touches a name not in it."""
    rank = {name: i for i, name in enumerate(order)}
    rank.update({name: len(order) for name in on_top})
    out = []
    for edge in edges:
        unknown = [name for name in (edge.importer, edge.imported) if name not in rank]
        if unknown:
            out.append(f"{edge.where}: '{unknown[0]}' has no place in the order of docs/architecture.md")
        elif (edge.importer, edge.imported) in FORBIDDEN:
            out.append(f"{edge.where}: '{edge.importer}' must not import '{edge.imported}'")
        elif rank[edge.imported] >= rank[edge.importer] and not {edge.importer, edge.imported} <= on_top:
            out.append(f"{edge.where}: '{edge.importer}' imports '{edge.imported}', which is not to its left")
    return out


def check(repository: Path) -> list[str]:
    """All violations in the repository at this path."""
    document = repository / "docs" / "architecture.md"
    python = violations(python_edges(repository / "python" / PACKAGE), read_order(document, "errors"))
    cpp = violations(cpp_edges(repository / "csrc"), read_order(document, "base"), frozenset(CPP_ON_TOP))
    return python + cpp


def main() -> int:
    found = check(Path(__file__).resolve().parent.parent)
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
