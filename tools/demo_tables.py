"""Writes the tables of docs/training_the_demo.md from the log that is shipped with the model, or checks them.

python tools/demo_tables.py           write what the log says between the page's markers
python tools/demo_tables.py --check   exit 1 if the page says something else

The log is python/tinygptv_fast/assets/demo/training_log.json, which the run's last phase writes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinygptv_fast.train.demo.report import MORE, difference

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "training_the_demo.md"
LOG = ROOT / "python" / "tinygptv_fast" / "assets" / "demo" / "training_log.json"
BEGIN, END = "<!-- {}: tools/demo_tables.py -->", "<!-- /{} -->"


def log() -> dict[str, Any]:
    """The shipped training log."""
    record: dict[str, Any] = json.loads(LOG.read_text(encoding="utf-8"))
    return record


def percent(value: Mapping[str, Any] | None) -> str:
    """A share with its interval: "95.1 (93.2-96.6)"; nothing for nothing."""
    if not value:
        return ""
    low, high = value["interval"]
    return f"{100 * value['share']:.1f} ({100 * low:.1f}-{100 * high:.1f})"


def examined(record: Mapping[str, Any]) -> list[str]:
    """A row a family, a column an exam, in per cent; then how far int4 is from float32."""
    figures = record["figures"]
    exams = [name for name, value in figures.items() if isinstance(value, dict) and "kinds" in value]
    first, *others = exams
    lines = [f"| family | questions | {' | '.join(exams)} |", "|---" * (len(exams) + 2) + "|"]
    for family, asked in figures[first]["families"].items():
        cells = [percent(asked), *(percent(figures[name]["families"].get(family)) for name in others)]
        lines.append(f"| {family} | {asked['asked']} | {' | '.join(cells)} |")
    for row in ("all", "false refusals"):
        cells = [percent(figures[name][row]) for name in exams]
        lines.append(f"| {row} | {figures[first][row]['asked']} | {' | '.join(cells)} |")
    return [*lines, "", *kinds(figures[first]), "", *against(figures)]


def kinds(figures: Mapping[str, Any]) -> list[str]:
    """The same questions by kind."""
    found = [f"{kind} {percent(value)}" for kind, value in figures["kinds"].items()]
    return ["By kind, int4: " + ", ".join(found) + "."]


def against(figures: Mapping[str, Any]) -> list[str]:
    """int4 beside float32 on the same questions, in points, with the interval of the paired difference: on those of the
    exam, on more of their own, and on all of them."""
    boxes, agreed = figures["int4 against float32"]["boxes"], figures["agreement"]
    whole = together(figures["int4 against float32"], figures[MORE])
    return [
        f"int4 less float32, points: {differences(figures['int4 against float32'])}.",
        "",
        f"On {asked(figures[MORE]):,} questions of their own ({by_number(figures[MORE])}): "
        f"{differences(figures[MORE])}.",
        "",
        f"On all {asked(whole):,}: {differences(whole)}.",
        "",
        f"Their boxes: mean IoU {boxes['mean_iou']:.3f} over {boxes['boxes']}. Tokens that are no coordinates, true "
        f"answers fed: the same in {percent(agreed)} % of {agreed['asked']:,}.",
    ]


def together(*compared: Mapping[str, Any]) -> dict[str, Any]:
    """Several comparisons as one of all their questions."""
    families: dict[str, Any] = {}
    for family in compared[0]["families"]:
        parts = [one["families"][family] for one in compared]
        families[family] = difference(*(sum(part[name] for part in parts) for name in ("asked", "won", "lost")))
    return {"families": families}


def asked(compared: Mapping[str, Any]) -> int:
    """How many questions two models were compared on."""
    return sum(int(value["asked"]) for value in compared["families"].values())


def differences(compared: Mapping[str, Any]) -> str:
    """By family."""
    return ", ".join(
        f"{family} {value['points']:+.2f} ({value['interval'][0]:+.2f} to {value['interval'][1]:+.2f})"
        for family, value in compared["families"].items()
    )


def by_number(compared: Mapping[str, Any]) -> str:
    """How many questions of which families."""
    groups: dict[int, list[str]] = {}
    for family, value in compared["families"].items():
        groups.setdefault(100 * round(value["asked"] / 100), []).append(family)
    return "; ".join(f"some {many:,} each of {', '.join(families)}" for many, families in groups.items())


def minutes(record: Mapping[str, Any]) -> list[str]:
    """What each phase took."""
    lines = ["| phase | steps or pictures | minutes |", "|---|---|---|"]
    for phase, done in record["phases"].items():
        many = done.get("steps") or sum(done.get("pictures", {}).values())
        lines.append(f"| {phase} | {many:,} | {done['seconds'] / 60:.1f} |")
    return [*lines, f"| **sum** | | **{record['seconds'] / 60:.0f}** |"]


TABLES = {"examined": examined, "minutes": minutes}


def written(page: str, record: Mapping[str, Any]) -> str:
    """``page`` with every table as the log has it. Raises ValueError where a marker is missing."""
    for name, table in TABLES.items():
        begin, end = BEGIN.format(name), END.format(name)
        start = page.index(begin) + len(begin)
        page = page[:start] + "\n" + "\n".join(table(record)) + "\n" + page[page.index(end, start) :]
    return page


def check(page: str) -> list[str]:
    """Empty if the page's tables are the log's."""
    if written(page, log()) == page:
        return []
    return ["docs/training_the_demo.md does not show the shipped training log: run tools/demo_tables.py"]


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    if "--check" in sys.argv[1:]:
        found = check(page)
        print("\n".join(found), end="\n" if found else "")
        return 1 if found else 0
    PAGE.write_text(written(page, log()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
