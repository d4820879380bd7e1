"""Writes the tables of measured figures from committed results, or checks that they show nothing else: README's has the
figures people choose by, that of docs/measured.md all of them.

python tools/readme_table.py           write the newest figures between each page's two markers
python tools/readme_table.py --check   exit 1 if a row of either is not what some committed result says

Sources: benchmarks/results/*.jsonl and the demo model's training_log.json. cpu.jsonl is what ``tinygptv bench --json``
writes (rows with ``quick`` are never shown), race.jsonl the lines of benchmarks/compare, soak.jsonl and
agreement.jsonl those of benchmarks/soak.py and benchmarks/agreement_native.py.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
MEASURED = ROOT / "docs" / "measured.md"
RESULTS = ROOT / "benchmarks" / "results"
COMPARE = ROOT / "benchmarks" / "compare"
DEMO_LOG = ROOT / "python" / "tinygptv_fast" / "assets" / "demo" / "training_log.json"
BEGIN, END = "<!-- measured:", "<!-- /measured -->"
HEAD = ["| what | measured | from |", "|---|---|---|"]


def records(name: str) -> list[dict[str, Any]]:
    """The lines of a results file, oldest first; none if it is not there."""
    path = RESULTS / name
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def demo_row() -> list[str]:
    """Accuracy of the shipped demo model."""
    log = json.loads(DEMO_LOG.read_text(encoding="utf-8"))
    all_of = log["figures"]["int4"]["all"]
    size = sum(file.stat().st_size for file in DEMO_LOG.parent.iterdir())
    return [
        f"| demo model at int4, vision int8: {size / 1e6:.1f} MB, {log['seconds'] / 60:.0f} minutes of training steps "
        f"on {log['threads']} cores | {all_of['share']:.1%} of {all_of['asked']:,} questions about pictures of "
        "their own right | `assets/demo/training_log.json` |"
    ]


def error_rows() -> list[str]:
    """Rounding error of int4 on normal weights, one row per record."""
    return [
        f"| int4, groups of {r['group']}, N(0,1) weights | rms error {r['rmse']:.4f} (round to nearest "
        f"{r['round_to_nearest']:.4f}, Q4_0's rule {r['q4_0_rule']:.4f}) | `results/quantize_error.jsonl` |"
        for r in records("quantize_error.jsonl")
        if r["weights"] == "normal" and r["format"] == "symmetric"
    ]


def conversion_rows() -> list[str]:
    """Converting files of the real sizes (random weights), one row per record."""
    return [
        f"| {r['source_bytes'] / 1e9:.1f} GB of original files (real sizes, random weights) to {r['quantization']} "
        f"| {r['output_bytes'] / 1e9:.2f} GB in {r['wall_seconds']:.0f} s on {r['threads']} cores, "
        f"peak anonymous memory {r['rss_anon_peak_bytes'] / 1e9:.2f} GB | `results/conversion.jsonl` |"
        for r in records("conversion.jsonl")
        if r["quantization"] == "int4"
    ]


# --- the native engine ------------------------------------------------------------------------------------------------
def cpu_rows() -> list[tuple[tuple[Any, ...], str]]:
    """(what it is a figure of, row) of every record of ``tinygptv bench`` that README shows, oldest first."""
    out = []
    for r in records("cpu.jsonl"):
        say = _SAID.get(r["section"])
        if say is None or r["quick"] or r["median"] is None:
            continue
        text = say(r)
        if text is None:
            continue
        key = (r["section"], r["name"], r["subject"], r["group"], r["kv"], r["threads"], r["isa"])
        out.append((key, f"| {r['section']}: {r['name']} ({setting(r)}) | {text} | `results/cpu.jsonl` |"))
    return out


#: What README says above the table that rows are, unless they say otherwise.
_USUAL = {"subject": "phi2, random weights", "kv": "int8", "threads": 2, "isa": "avx512vnni"}


def setting(r: dict[str, Any]) -> str:
    """What a figure of the engine was measured with, as far as it is not what README says of all."""
    unusual = {name: r[name] for name, usual in _USUAL.items() if r[name] != usual}
    said = {"subject": "{}", "kv": "{} KV", "threads": "{} threads", "isa": "{}"}
    return ", ".join([f"groups of {r['group']}", *(said[name].format(value) for name, value in unusual.items())])


def _rate(r: dict[str, Any]) -> str | None:
    """Rates with their roof: of the read bandwidth, or of int8 arithmetic where that is nearer."""
    if r["unit"] == "s/word":
        return f"{r['median']:.3f} s/word (the paper on its GPU: {r['details']['paper_seconds_per_word']})"
    if r["fraction_of_roof"] > r["fraction_of_bandwidth"]:
        roof = f"{r['fraction_of_peak']:.0%} of int8 in registers ({r['peak_gop_per_s']:.0f} GOP/s)"
    else:
        roof = f"{r['fraction_of_bandwidth']:.0%} of the read bandwidth ({r['read_gb_per_s']:.1f} GB/s)"
    return f"{r['median']:.1f} {r['unit']}, {roof}"


def _start(r: dict[str, Any]) -> str | None:
    if "and a picture" in r["name"]:
        return f"{r['median']:.2f} GB"
    if r["unit"] == "GB":
        share = r["details"]["over_weights_and_kv"]
        return f"{r['median']:.2f} GB, {share:.2f} of packed weights and touched KV"
    return f"{r['median']:.2f} s" if r["name"].startswith("second start") else None


def _jitter(r: dict[str, Any]) -> str | None:
    d = r["details"]
    if "over_alone_median" in d:
        return (
            f"median {r['median']:.1f} ms, {d['over_alone_median']:.2f} times that of the stream alone, of {r['n']:,}"
        )
    return f"median {r['median']:.1f} ms, p99 {d['p99_over_median']:.2f} times that, of {r['n']:,}"


def _picture(r: dict[str, Any]) -> str:
    return f"{r['median']:,.0f} ms (vision in {r['details']['arithmetic']}, random pictures of 640 x 480)"


_SAID: dict[str, Callable[[dict[str, Any]], str | None]] = {
    "decode": _rate,
    "prefill": _rate,
    "batch": _rate,
    "ttft": _start,
    "jitter": _jitter,
    "vision": _picture,
}


def races() -> list[list[dict[str, Any]]]:
    """The lines of each race, the last one's last; what stands before the first is a part of its own."""
    out: list[list[dict[str, Any]]] = []
    for line in records("race.jsonl"):
        if line.get("metric") == "machine" or not out:  # a race begins by saying what it runs on
            out.append([])
        out[-1].append(line)
    return out


def race_rows() -> list[tuple[tuple[Any, ...], str]]:
    """(entry, row) of each engine of each race, the last one's last: medians over its rounds that nobody disturbed."""
    lines = records("race.jsonl")
    errors = {r["entry"]: f"KL to float32 {r['kl']:.2g}" for r in lines if r.get("metric") == "accuracy"}
    return [row for race in races() for row in _race(race, errors)]


def ratio_rows() -> list[tuple[tuple[Any, ...], str]]:
    """(entry, row) of each of our full entries of each race: over the best peer of the same round, median of rounds."""
    if str(COMPARE) not in sys.path:
        sys.path.insert(0, str(COMPARE))
    table = importlib.import_module("table")
    return [row for race in races() for ours in table.present(race) for row in _ratios(table, race, ours)]


def _ratios(table: Any, race: list[dict[str, Any]], ours: Any) -> list[tuple[tuple[Any, ...], str]]:
    if ours.family != table.OURS or not ours.every_round:
        return []
    said, rounds = [], 0
    for label, metric in _RACED.items():
        found = table.ratios(race, ours, metric, lambda entry: not entry.name.endswith(table.AVX2))
        if found:
            middle, rounds = statistics.median(value for value, _ in found.values()), max(rounds, len(found))
            said.append(f"{label} {middle:.2f} ({min(found.values())[0]:.2f}-{max(found.values())[0]:.2f})")
    if not said:
        return []
    row = f"| race: int4, groups of {ours.group}, over the fastest of the others | {', '.join(said)} times its tok/s"
    return [((ours.name,), f"{row}; median (least-most) of {rounds} rounds | `results/race.jsonl` |")]


_RACED = {
    "decode at 64": "decode@64",
    "at 1024": "decode@1024",
    "prompts of 64": "prefill@64",
    "of 256": "prefill@256",
    "of 1024": "prefill@1024",
    "8 sequences": "batch8@64",
}


def _race(lines: list[dict[str, Any]], errors: dict[str, str]) -> list[tuple[tuple[Any, ...], str]]:
    found: dict[str, dict[str, dict[int, float]]] = {}
    for r in lines:
        if "value" in r:
            rounds = found.setdefault(r["entry"], {}).setdefault(r["metric"], {})
            if not r.get("contended"):
                rounds[r["round"]] = r["value"]  # a repeated measurement replaces the first
    out = []
    for entry, metrics in found.items():
        value = {m: statistics.median(rounds.values()) if rounds else None for m, rounds in metrics.items()}
        peak = value.get("peak_resident")
        parts = [
            _several("decode at {}", "decode@", ("64", "1024"), value, "tok/s"),
            _several("prompts of {}", "prefill@", ("64", "256", "1024"), value, "tok/s"),
            # through the API a batch is everything from the call to the last answer, which is not what peers' is
            "" if entry.endswith("-api") else _several("8 sequences", "batch8@", ("64",), value, "tok/s"),
            f"{peak:.1f} GiB at most" if peak is not None else "",
            errors.get(entry, ""),
        ]
        text = "; ".join(part for part in parts if part)
        if text:
            out.append(((entry,), f"| race: {entry} | {text} | `results/race.jsonl` |"))
    return out


def _several(label: str, prefix: str, ends: tuple[str, ...], value: dict[str, float | None], unit: str) -> str:
    """ "decode at 64 / 1024: 20.1 / 14.2 tok/s", a dash where nothing counted; nothing at all if none was measured."""
    if not any(f"{prefix}{end}" in value for end in ends):
        return ""
    found = [value.get(f"{prefix}{end}") for end in ends]
    shown = " / ".join("-" if one is None else f"{one:.1f}" for one in found)
    return f"{label.format(' / '.join(ends))}: {shown} {unit}"


def vision_rows() -> list[tuple[tuple[Any, ...], str]]:
    """(figure, row) of what the vision side costs beside plain torch, and of how far it is from float32: whole towers
    on two threads."""
    out: list[tuple[tuple[Any, ...], str]] = []
    for r in records("vision.jsonl"):
        if r.get("layers") != _TOWER:
            continue
        if r["figure"] == "speed" and r["threads"] == 2 and r["what"] in ("int8", "bfloat16"):
            name = f"vision side of the released size, {r['size']} px, {r['what']}"
            text = f"{r['median_s']:.2f} s, {r['ratio_to_eager']:.2f} times torch's eager bfloat16 in the same rounds"
            out.append((("speed", name), f"| {name} | {text} | `results/vision.jsonl` |"))
        elif r["figure"] == "error":
            name = f"the same, {r['size']} px, {r['arithmetic']}, {r['weights']} weights"
            text = f"embeddings {r['embeddings']:.2%} from float32's (relative L2; {r['limit']:.0%} allowed)"
            out.append((("error", name), f"| {name} | {text} | `results/vision.jsonl` |"))
    return out


_TOWER = 39  # blocks of EVA-CLIP ViT-g as used


def soak_rows() -> list[str]:
    return [
        f"| soak of {r['requests']:,} requests ({r['subject']}) | {len(r['problems'])} problems, resident memory grew "
        f"by {r['growth_bytes'] / 1e6:.1f} MB | `results/soak.jsonl` |"
        for r in records("soak.jsonl")
    ]


def agreement_rows() -> list[str]:
    out = []
    for r in records("agreement.jsonl"):
        v = r["verdict"]
        name = Path(r["int4"]).name
        boxes = "" if v["mean_iou"] is None else f", boxes' IoU {v['mean_iou']:.3f}"
        out.append(
            f"| {name}: KL that int8 activations and int8 KV add to int4 weights | {v['added_share']:.0%} of "
            f"KL(fp32‖int4) = {v['kl_fp32_int4']:.2g}; other tokens than coordinates {v['agreement_other_tokens']:.1%} "
            f"the same as {r['base']}{boxes} | `results/agreement.jsonl` |"
        )
    return out


# --- what waits -------------------------------------------------------------------------------------------------------
_FULL_SIZE = "2dcf84f211f3"  # int4 of what make_full_size.py --outliers draws; other models are not shown


def latency_rows() -> list[tuple[tuple[Any, ...], str]]:
    """(what it is a figure of, row): choices and asking again, and how late deadlines and cancels are, oldest first."""
    out: list[tuple[tuple[Any, ...], str]] = []
    for r in (r for r in records("choices_cost.jsonl") if r["model"] == _FULL_SIZE):
        if r["what"] == "choices":
            what = (
                f"{r['choices']} choices of at most {max(r['choice_tokens'])} tokens after {r['prompt_tokens']} tokens"
            )
            said = f"{r['with_choices_ms']:.0f} ms, {r['ratio']:.2f} times the prompt alone"
        else:
            what = "asking again about a picture that was seen"
            said = f"{r['again_ms']:.0f} ms after {r['first_ms']:,.0f} the first time"
        text = f"| {what} (full size, random weights) | {said} | `results/choices_cost.jsonl` |"
        out.append(((r["what"], r["model"]), text))
    for r in records("deadlines.jsonl"):
        if r["phase"] != "finished" and r["model"] == _FULL_SIZE:
            what = f"{r['what']} in {r['phase']} (full size, random weights)"
            said = f"late by {r['overshoot_ms_p50']:.1f} ms at the median, {r['overshoot_ms_p99']:.0f} at p99"
            text = f"| {what} | {said}, of {r['count']:,} | `results/deadlines.jsonl` |"
            out.append(((r["what"], r["phase"], r["model"]), text))
    return out


def finetune_rows() -> list[tuple[tuple[Any, ...], str]]:
    """(lesson, row) of what 200 examples teach the demo model, oldest first."""
    return [
        (
            (r["lesson"],),
            f"| `tinygptv finetune`, {r['examples']} examples, lesson {r['lesson']}: {r['seconds']:.0f} s | "
            f"{r['before']['share']:.0%} to {r['after']['share']:.1%} right, {r['elsewhere']['points']:+.1f} points "
            f"elsewhere | `results/finetune_world.jsonl` |",
        )
        for r in records("finetune_world.jsonl")
    ]


def newest() -> list[str]:
    """All rows: the demo, groups of 32, the last conversion, the last of each figure of the engine."""
    order = list(_SAID)
    latest = dict(cpu_rows())  # key: section, name, subject, group, ...
    engine = [
        latest[key]
        for key in sorted(latest, key=lambda key: (order.index(key[0]), key[2] != _USUAL["subject"], key[3]))
    ]
    race = list(dict(race_rows()).values())
    sight = [row for _, row in sorted(dict(vision_rows()).items(), key=lambda item: item[0][0], reverse=True)]
    return [
        *demo_row(),
        *dict(ratio_rows()).values(),
        *error_rows()[:1],
        *conversion_rows()[-1:],
        *engine,
        *sight,
        *soak_rows()[-1:],
        *{row.split(":")[0]: row for row in agreement_rows()}.values(),  # the last of each model
        *dict(latency_rows()).values(),
        *dict(finetune_rows()).values(),
        *race,
    ]


#: Figures of the engine that README shows, by section: what people ask first. The others are in docs/measured.md.
_ASKED_FIRST = {
    "decode": ("one sequence, ctx 64",),
    "prefill": ("256 tokens",),
    "batch": ("8 sequences, ctx 64",),
    "ttft": ("second start, whole process to first token", "resident after 2048 tokens and a picture, above import"),
    "vision": ("448 px, total",),
}


def headlines() -> list[str]:
    """The rows of README: the newest of what people choose by."""
    latest = dict(cpu_rows())  # key: section, name, subject, group, ...
    order = list(_SAID)
    keys = [key for key in latest if key[3] == 32 and key[1] in _ASKED_FIRST.get(key[0], ())]
    return [
        *demo_row(),
        *dict(ratio_rows()).values(),
        *(latest[key] for key in sorted(keys, key=lambda key: (order.index(key[0]), key[1]))),
        *conversion_rows()[-1:],
        *soak_rows()[-1:],
    ]


def split(text: str) -> tuple[str, list[str], str]:
    """A page as (up to and with the first marker line, table lines, from the second marker)."""
    start = text.index("\n", text.index(BEGIN)) + 1
    stop = text.index(END, start)
    return text[:start], text[start:stop].splitlines(), text[stop:]


def check(text: str, page: str = "README.md") -> list[str]:
    """Sentences about rows that no result supports; empty if the table is honest."""
    shown = split(text)[1]
    allowed = {*demo_row(), *error_rows(), *conversion_rows(), *soak_rows(), *agreement_rows()}
    keyed = (cpu_rows, race_rows, ratio_rows, vision_rows, latency_rows, finetune_rows)
    allowed |= {row for rows in keyed for _, row in rows()}
    if shown[:2] != HEAD or len(shown) < 3:
        return [f"{page} has no table of measured figures: run tools/readme_table.py"]
    return [f"{page} shows what no committed result says: {row}" for row in shown[2:] if row not in allowed]


def check_pages() -> list[str]:
    """``check`` of both pages."""
    return [
        sentence
        for page in (README, MEASURED)
        for sentence in check(page.read_text(encoding="utf-8"), str(page.relative_to(ROOT)))
    ]


def main() -> int:
    if "--check" in sys.argv[1:]:
        found = check_pages()
        print("\n".join(found), end="\n" if found else "")
        return 1 if found else 0
    for page, rows in ((README, headlines()), (MEASURED, newest())):
        before, _, after = split(page.read_text(encoding="utf-8"))
        page.write_text(before + "\n".join([*HEAD, *rows]) + "\n" + after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
