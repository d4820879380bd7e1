"""What benchmarks/gpu_check.sh runs: build, device tests, memory checker, benchmarks, end to end, on one GPU.

Each step ends as "passed", "failed" or "not available" (a tool or a part of the project that is not there; that is
never a pass). All steps together end within ten minutes; what no longer fits is "not available". The results file is
written after every section, so that a call that is cut short leaves what it measured. Python's standard library alone:
the GPU machine need not have our requirements.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
BUILD = REPOSITORY / "build" / "gpu"
DEVICE_TESTS = (
    *("int4_gemv_device", "paged_attention_device", "prefill_attention_device"),
    *("int4_gemm_device", "int8_gemm_device", "half_gemm_device", "float_gemm_device"),
    *("cuda_advance_device", "cuda_norm_device", "cuda_qkv_append_device", "cuda_page_copy_device"),
    *("cuda_embedding_device", "cuda_sampling_device", "cuda_decoder_device", "cuda_graphs_device"),
    *("cuda_draws_device", "cuda_engine_device"),
)
TOTAL_S = 570.0
TAIL = 4000  # characters of output kept of a step that failed


@dataclass
class Step:
    """One command's outcome: ``status`` is passed, failed or not available; ``detail`` says why it is not passed."""

    status: str
    detail: str = ""
    seconds: float = 0.0
    measurements: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        out: dict[str, Any] = {"status": self.status, "seconds": round(self.seconds, 1)}
        if self.detail:
            out["detail"] = self.detail
        if self.measurements:
            out["measurements"] = self.measurements
        return out


def not_available(reason: str) -> Step:
    return Step("not available", reason)


class Runner:
    """Runs commands from the repository's root until ``total_s`` seconds have passed since it was made."""

    def __init__(self, total_s: float = TOTAL_S) -> None:
        self._deadline = time.monotonic() + total_s

    def __call__(self, command: Sequence[str | Path], limit_s: float) -> Step:
        """One command, stopped after ``limit_s`` seconds; json lines of its output become measurements."""
        left = self._deadline - time.monotonic()
        if left < 5:
            return not_available("the time of this call is used up; run the section alone with --only")
        print("+", *command, flush=True)
        start = time.monotonic()
        try:
            code, output = execute(command, min(limit_s, left))
        except FileNotFoundError:
            return not_available(f"{command[0]} is not on this machine")
        step = Step("passed" if code == 0 else "failed", seconds=time.monotonic() - start)
        step.measurements = measurements(output)
        if code != 0:
            ending = f"not done after {step.seconds:.0f} s" if code is None else f"exit code {code}"
            step.detail = f"{ending}\n{output[-TAIL:]}"
            print(output[-TAIL:], flush=True)
        return step


def execute(command: Sequence[str | Path], limit_s: float) -> tuple[int | None, str]:
    """Exit code (None: stopped at the limit) and the output, errors included."""
    words = [str(word) for word in command]
    with subprocess.Popen(
        words, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # compilers are grandchildren
            output, _ = process.communicate()
            return None, output
        return process.returncode, output


def measurements(output: str) -> list[dict[str, Any]]:
    """The lines of ``output`` that are json objects."""
    out = []
    for line in output.splitlines():
        if line.startswith("{") and line.endswith("}"):
            try:
                out.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return out


# --- sections ---------------------------------------------------------------------------------------------------------
def build(run: Runner) -> dict[str, Step]:
    """The package as pip builds it, if its build tools are here, and the device tests and benchmarks by CMake."""
    steps = {}
    missing = [name for name in ("scikit_build_core", "pybind11") if importlib.util.find_spec(name) is None]
    if missing:
        steps["package"] = not_available(f"{' and '.join(missing)} not installed here; built with CMake alone below")
    else:
        site = REPOSITORY / "build" / "site"
        options = ["--no-index", "--no-deps", "--no-build-isolation", "--upgrade", "--target", str(site)]
        options += ["-C", "cmake.define.TINYGPTV_CUDA=native"]
        steps["package"] = run([sys.executable, "-m", "pip", "install", *options, "."], 150)
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    flags = ["-DTINYGPTV_CUDA=native", "-DTINYGPTV_TESTS=ON"]
    steps["configure"] = run(["cmake", "-S", REPOSITORY, "-B", BUILD, *generator, *flags], 60)
    if steps["configure"].status == "passed":
        steps["compile"] = run(["cmake", "--build", BUILD, "--parallel"], 180)
    return steps


def executable(name: str) -> Path | None:
    path = BUILD / "csrc" / "tests" / name
    return path if path.exists() else None


def test(run: Runner) -> dict[str, Step]:
    """The kernels against double precision on the GPU, and the emulation's tests beside them."""
    steps = {}
    for name in DEVICE_TESTS:
        path = executable(name)
        steps[name] = run([path], 60) if path else not_available("not built; run the section build first")
    emulated = executable("int4_gemv_test")
    steps["emulation"] = (
        run(["ctest", "--test-dir", BUILD, "--output-on-failure"], 60) if emulated else not_available("not built")
    )
    steps["package"] = import_package(run)
    return steps


def import_package(run: Runner) -> Step:
    """What the installed package itself says about the GPU."""
    site = REPOSITORY / "build" / "site"
    if not (site / "tinygptv_fast").exists():
        return not_available("the package was not built here")
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from tinygptv_fast import _native as n; "
        "print(json.dumps({'name': 'device', **n.cuda_device_info(0)}))"
    )
    return run([sys.executable, "-c", program, site], 60)


def check(run: Runner) -> dict[str, Step]:
    """The memory checker on the device tests."""
    steps = {}
    for tool in ("memcheck", "racecheck", "initcheck"):
        for name in DEVICE_TESTS:
            path = executable(name)
            if path is None:
                steps[f"{tool}:{name}"] = not_available("not built; run the section build first")
                continue
            step = run(["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", path, "edge", "pages", "dim"], 40)
            if (
                step.status == "failed"
                and "exit code 9" not in step.detail
                and re.search(
                    r"not supported|Unable to|Device not supported|Failed to|internal error", step.detail, re.IGNORECASE
                )
            ):
                step = not_available(step.detail)  # the tool itself cannot work here, which says nothing of our code
            steps[f"{tool}:{name}"] = step
    return steps


def bench(run: Runner) -> dict[str, Step]:
    """Kernels and synchronisation, as fractions of the read rate measured in the same process."""
    steps = {}
    for name in ("bench_sync", "bench_kernels"):
        path = executable(name)
        steps[name] = run([path], 90) if path else not_available("not built; run the section build first")
    return steps


def e2e(run: Runner) -> dict[str, Step]:
    """The demo model by ``from_pretrained(device="cuda")`` beside the CPU, its pictures and the released tower's, a Phi
    of transformers beside torch, the ops on torch's tensors."""
    site = REPOSITORY / "build" / "site"
    steps = {}
    for name, program, needed in (
        ("generate", "gpu_generate.py", ("numpy", "PIL", "tokenizers")),
        ("pictures", "gpu_pictures.py", ("numpy", "PIL", "tokenizers", "torch")),
        ("accelerate", "gpu_accelerate.py", ("numpy", "torch", "transformers")),
        ("ops", "gpu_ops.py", ("numpy", "torch")),
    ):
        missing = [module for module in needed if importlib.util.find_spec(module) is None]
        if not (site / "tinygptv_fast").exists():
            steps[name] = not_available("the package was not built here")
        elif missing:
            steps[name] = not_available(f"python has no {', '.join(missing)}")
        else:
            steps[name] = run([sys.executable, REPOSITORY / "benchmarks" / program, site], 90)
    return steps


SECTIONS: dict[str, Callable[[Runner], dict[str, Step]]] = {
    "build": build,
    "test": test,
    "check": check,
    "bench": bench,
    "e2e": e2e,
}


# --- the results file -------------------------------------------------------------------------------------------------
def gpu_name() -> str | None:
    """The first GPU's name, or None where there is none."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    name = done.stdout.strip().splitlines()
    return name[0].strip() if done.returncode == 0 and name else None


def first_line(command: list[str]) -> str:
    """A tool's version, or "not available"."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return "not available"
    lines = [line for line in done.stdout.strip().splitlines() if line.strip()]
    return lines[-1].strip() if done.returncode == 0 and lines else "not available"


def describe_machine(gpu: str) -> dict[str, str]:
    return {
        "gpu": gpu,
        "driver": first_line(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]),
        "nvcc": first_line(["nvcc", "--version"]),
        "python": sys.version.split()[0],
        "git": first_line(["git", "rev-parse", "HEAD"]),
    }


def results_path(folder: Path, gpu: str) -> Path:
    return folder / (re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") + ".json")


def record(path: Path, machine: dict[str, str], section: str, steps: dict[str, Step]) -> None:
    """Adds a section to the results file, keeping the others; each section says on what it was measured."""
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    data["gpu"] = machine["gpu"]
    sections = data.setdefault("sections", {})
    sections[section] = {
        "machine": machine,
        "utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "steps": {name: step.to_dict() for name, step in steps.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="gpu_check.sh", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(SECTIONS), help="run one section instead of all")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results", help="folder of the results")
    options = parser.parse_args(arguments)
    gpu = gpu_name()
    if gpu is None:
        print("gpu_check: no NVIDIA GPU on this machine (nvidia-smi finds none); nothing was run", file=sys.stderr)
        return 2
    machine = describe_machine(gpu)
    path = results_path(options.out, gpu)
    failed: list[str] = []
    run = Runner()
    for name in [options.only] if options.only else list(SECTIONS):
        steps = SECTIONS[name](run)
        record(path, machine, name, steps)
        for step_name, step in steps.items():
            print(f"{name}: {step_name}: {step.status}", flush=True)
        failed += [f"{name}:{step_name}" for step_name, step in steps.items() if step.status == "failed"]
    print(f"results: {path}")
    if failed:
        print(f"gpu_check: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
