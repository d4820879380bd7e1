"""All engines on one machine, in turn, round after round: prints tables and writes every measurement as a JSON line.

    python benchmarks/compare/race.py --work WORK                 # three rounds, within 15 minutes
    python benchmarks/compare/race.py --work WORK --only decode --engines ours-g32 llamacpp-q4_0 --rounds 5

``prepare.py`` makes what it needs. Every engine runs in a process of its own with its files in the page cache and a
probe of the read bandwidth before and after; a round is one turn of every engine, and the order shifts from round to
round. What is compared is compared within a round. Rows that are there for the record run
in the last round only, at its end.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from catalogue import ENTRIES, Entry, find
from launch import WorkerError, missing, run_worker
from table import print_accuracy, print_all, read
from tinygptv_fast import _native
from tinygptv_fast.bench.runner import git_hash

PROBE_BYTES, PROBE_PASSES = 1 << 30, 7
_FIRST_GUESS_S = 45.0


class Race:
    """Runs entries and keeps the lines, in memory and in ``out``."""

    def __init__(self, work: Path, out: Path, *, what: str, minutes: float, threads: int, tries: int) -> None:
        self.lines: list[dict[str, Any]] = []
        self._work, self._out, self._what, self._threads, self._tries = work, out, what, threads, tries
        self._end = time.monotonic() + 60 * minutes
        self._took: dict[str, float] = {}

    def run(self, entry: Entry, number: int) -> bool:
        """One turn; False if the time left does not suffice."""
        start = time.monotonic()
        if start + self._took.get(entry.name, _FIRST_GUESS_S) > self._end:
            return False
        before = self._probe()
        try:
            left = self._end - start + 60
            lines = run_worker(
                self._work, entry, self._what, self._threads, round_number=number, tries=self._tries, timeout_s=left
            )
        except WorkerError as error:
            lines = [{"round": number, "entry": entry.name, "metric": "error", "message": str(error)}]
        after = self._probe()
        self._took[entry.name] = time.monotonic() - start
        probe = {"round": number, "entry": entry.name, "metric": "probe", "before": before, "after": after}
        self._keep([*lines, {**probe, "seconds": round(self._took[entry.name], 1)}])
        self._show(entry, number, lines)
        return True

    def note(self, line: dict[str, Any]) -> None:
        self._keep([line])

    def _probe(self) -> float:
        rate = _native.read_bandwidth(threads=self._threads, bytes=PROBE_BYTES, passes=PROBE_PASSES)
        return round(rate / 1e9, 2)

    def _keep(self, lines: list[dict[str, Any]]) -> None:
        self.lines += lines
        with self._out.open("a", encoding="utf-8") as out:
            out.writelines(json.dumps(line) + "\n" for line in lines)

    def _show(self, entry: Entry, number: int, lines: list[dict[str, Any]]) -> None:
        words = [line.get("message") or f"{line['metric']} {line['value']:.3g}" + "*" * line["contended"]
                 for line in lines]  # fmt: skip
        print(f"{number} {entry.name} ({self._took[entry.name]:.0f} s): " + ", ".join(words), flush=True)


def turns(entries: list[Entry], rounds: int) -> list[tuple[int, Entry]]:
    """(round, entry) in running order."""
    always = [entry for entry in entries if entry.every_round]
    out: list[tuple[int, Entry]] = []
    for number in range(1, rounds + 1):
        shift = (number - 1) % max(len(always), 1)
        out += [(number, entry) for entry in always[shift:] + always[:shift]]
        if number == rounds:
            out += [(number, entry) for entry in entries if not entry.every_round]
    return out


def show_accuracy(work: Path, entries: list[Entry]) -> None:
    path = work / "accuracy.jsonl"
    lines = read(path) if path.exists() else []
    print_accuracy([line for line in lines if any(line["entry"] == entry.name for entry in entries)])
    absent = [entry.name for entry in entries if not any(line["entry"] == entry.name for line in lines)]
    if absent:
        print(f"no accuracy row (prepare.py --steps accuracy): {', '.join(absent)}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="the folder that prepare.py filled")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=14.5, help="no turn begins that would end later")
    parser.add_argument("--engines", nargs="+", metavar="NAME", help=f"of {', '.join(e.name for e in ENTRIES)}")
    parser.add_argument("--only", choices=("decode", "prefill", "batch"), help="leave the other measurements out")
    parser.add_argument("--tries", type=int, default=2, help="a contended measurement is made at most so often")
    parser.add_argument("--threads", type=int, default=_native.physical_cores())
    parser.add_argument("--out", type=Path, help="JSON lines; default WORK/race-<time>.jsonl")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    entries = [find(name) for name in arguments.engines] if arguments.engines else list(ENTRIES)
    for entry in list(entries):
        absent = missing(work, entry)
        if absent:
            print(f"{entry.name} is left out, {absent[0].relative_to(work)} is not there (prepare.py makes it)")
            entries.remove(entry)
    out = arguments.out or work / f"race-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
    what = arguments.only or "prefill,decode,batch"
    race = Race(work, out, what=what, minutes=arguments.minutes, threads=arguments.threads, tries=arguments.tries)
    machine = {"metric": "machine", "cpu": _native.cpu_brand(), "threads": arguments.threads, "git": git_hash()}
    race.note({**machine, "isa": _native.best_isa(), "build": _native.build_info()})
    print(f"{_native.cpu_brand()}, {arguments.threads} threads; lines in {out}\n")
    show_accuracy(work, entries)
    for number, entry in turns(entries, arguments.rounds):
        if not race.run(entry, number):
            print(f"{number} {entry.name}: no time left")
            race.note({"round": number, "entry": entry.name, "metric": "no_time"})
    print("* marks contended measurements\n")
    print_all(race.lines)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
