"""Checks the documentation: every relative link leads to a file, every heading linked to exists, every page of docs/ is
in the index, and the tables of README and of the demo model show measured figures only. Exit code 1 and a line per
fault.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")


def pages() -> list[Path]:
    """README and everything under docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def faults_of(page: Path) -> Iterator[str]:
    """Broken links of one page."""
    text = _CODE.sub("", _FENCE.sub("", page.read_text(encoding="utf-8")))
    for target in _LINK.findall(text):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (page.parent / path).resolve() if path else page
        where = page.relative_to(ROOT)
        if not file.exists():
            yield f"{where}: {target} leads nowhere"
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            yield f"{where}: {target} has no such heading"


def not_in_index() -> Iterator[str]:
    """Pages of docs/ that its README does not link to."""
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in sorted((ROOT / "docs").glob("*.md")):
        if page.name != "README.md" and f"]({page.name})" not in index:
            yield f"docs/README.md: {page.name} is not in the index"


def main() -> int:
    found = [fault for page in pages() for fault in faults_of(page)]
    readme_table = importlib.import_module("readme_table")  # beside this script, so on its path
    demo_tables = importlib.import_module("demo_tables")
    found += [*not_in_index(), *readme_table.check_pages()]
    found += demo_tables.check(demo_tables.PAGE.read_text(encoding="utf-8"))
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
