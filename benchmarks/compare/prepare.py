"""Makes what the race needs: an environment per peer, one random Phi-2, and each engine's file made from it.

    python benchmarks/compare/prepare.py --work WORK                      # everything that is not there yet
    python benchmarks/compare/prepare.py --work WORK --steps models       # one step
    python benchmarks/compare/prepare.py --work WORK --steps accuracy --engines ours-g32

Run it with the project's own interpreter. A step's result appears under its name only when it is complete, so an
interrupted run continues where it stopped. About 38 GB of disk (6 GB of them a GGUF file that is deleted again), 14 GB
of memory and an hour on two cores, a third of it the native build of llama.cpp, twice.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from catalogue import ENTRIES, OURS, Entry, find
from launch import WorkerError, missing, run_worker
from layout import CHECKPOINT, models, python_of
from tinygptv_fast import _native

HERE = Path(__file__).resolve().parent
MAKE = HERE / "make"
# Everything that llama.cpp would take from this machine, and what a machine without AVX-512 has.
NATIVE = "-DGGML_NATIVE=ON -DGGML_LLAMAFILE=ON -DLLAVA_BUILD=OFF"
AVX2 = (
    "-DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON "
    "-DGGML_AVX512=OFF -DGGML_AVX_VNNI=OFF -DGGML_LLAMAFILE=ON -DLLAVA_BUILD=OFF"
)
# environment → (requirements, CMake arguments of a package that is built from source)
ENVIRONMENTS: dict[str, tuple[str, str]] = {
    "llamacpp": ("llamacpp", NATIVE),
    "torch": ("torch", ""),
    "openvino": ("openvino", ""),
    "onnxruntime": ("onnxruntime", ""),
    "llamacpp-avx2": ("llamacpp", AVX2),
}


class Prepare:
    """One method per step; each does only what is missing."""

    def __init__(self, work: Path, index: str | None, engines: list[str] | None) -> None:
        self._work, self._index, self._engines = work, index, engines
        self._models = models(work)
        self._models.mkdir(parents=True, exist_ok=True)

    # -- environments ------------------------------------------------------------------------------------------------

    def environments(self) -> None:
        for name, (requirements, cmake) in ENVIRONMENTS.items():
            self._once(self._work / f"venv-{name}", self._environment, requirements, cmake)

    def _environment(self, at: Path, requirements: str, cmake: str) -> None:
        """A virtual environment knows its own place, so it is made there and marked when complete."""
        run(sys.executable, "-m", "venv", at)
        python = at / "bin" / "python"
        command: list[str | Path] = [
            python,
            "-m",
            "pip",
            "install",
            "-r",
            HERE / "requirements" / f"{requirements}.txt",
        ]
        if self._index:
            command += ["--extra-index-url", self._index]
        if cmake:  # no cache: the wheel of one build must not be taken for the other
            command += ["--no-cache-dir", "--no-binary", "llama-cpp-python"]
        run(*command, variables={"CMAKE_ARGS": cmake} if cmake else {})
        if requirements == "openvino":  # comes along, does not work beside torch for CPUs, and is not needed
            run(python, "-m", "pip", "uninstall", "-y", "torchvision")

    # -- models ------------------------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        self._once(self._models / CHECKPOINT, self._script, sys.executable, "checkpoint.py", [])

    def words(self) -> None:
        self._once(self._work / "words.json", self._script, sys.executable, "words.py", [self._models / CHECKPOINT])

    def reference(self) -> None:
        self._once(self._work / "reference.npz", self._script, self._python("torch"), "reference.py", [self._work])

    def models(self) -> None:
        self._gguf()
        source = self._models / CHECKPOINT
        self._once(self._models / "ov-int4-g128", self._openvino, 128)
        self._once(self._models / "ov-int4-g32", self._openvino, 32, "--all-layers")
        for group in (128, 32):
            self._once(self._models / f"ort-int4-b{group}", self._onnxruntime, group)
        self._once(
            self._models / "torch-int4-g128.pt", self._script, self._python("torch"), "torch_int4.py", [source], "128"
        )
        for group in (32, 128):
            for suffix, norms in (("", ["--norms"]), ("-stock", [])):
                more = ["--group", str(group), *norms]
                name = f"ours-int4-g{group}{suffix}"
                self._once(self._models / name, self._script, sys.executable, "ours.py", [source], *more)

    def _gguf(self) -> None:
        kinds = {kind: self._models / f"phi2-{kind}.gguf" for kind in ("q4_0_pure", "q4_k_m")}
        if all(path.exists() for path in kinds.values()):
            return
        full, script = self._models / "phi2-f16.gguf", "gguf_file.py"
        self._once(full, self._script, self._python("torch"), script, ["write", self._models / CHECKPOINT])
        for kind, path in kinds.items():
            self._once(path, self._script, self._python("llamacpp"), script, ["quantize", full], kind)
        full.unlink()

    def _script(self, at: Path, python: str | Path, script: str, before: list[str | Path], *after: str) -> None:
        """``make/script`` with the place to write between its other arguments."""
        run(python, MAKE / script, *before, at, *after)

    def _openvino(self, at: Path, group: int, *more: str) -> None:
        run(
            self._work / "venv-openvino" / "bin" / "optimum-cli", "export", "openvino",
            "--model", self._models / CHECKPOINT, "--task", "text-generation-with-past", "--library", "transformers",
            "--weight-format", "int4", "--sym", "--ratio", "1.0", "--group-size", str(group), *more, at,
        )  # fmt: skip

    def _onnxruntime(self, at: Path, group: int) -> None:
        """``int4_block_size`` is documented for the same thing and leaves blocks of 32."""
        cache = self._work / "onnxruntime-cache"
        run(
            self._python("onnxruntime"), "-m", "onnxruntime_genai.models.builder",
            "-i", self._models / CHECKPOINT, "-o", at, "-p", "int4", "-e", "cpu", "-c", cache,
            "--extra_options", "accuracy_level=4", f"block_size={group}",
        )  # fmt: skip
        shutil.rmtree(cache, ignore_errors=True)

    # -- what runs the engines ---------------------------------------------------------------------------------------

    def pack(self) -> None:
        """Loads our directories once, so that the race's loads are second starts."""
        for entry in ENTRIES:
            if entry.family == OURS and entry.every_round and not missing(self._work, entry):
                self._show(entry, "load")

    def accuracy(self) -> None:
        """Rows that are not in accuracy.jsonl yet; with --engines, those rows anew."""
        path = self._work / "accuracy.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        done = {line["entry"] for line in lines}
        chosen = [find(name) for name in self._engines] if self._engines else [e for e in ENTRIES if e.name not in done]
        for entry in chosen:
            absent = missing(self._work, entry)
            if absent:
                print(f"{entry.name}: {absent[0].name} is not there")
                continue
            made = self._show(entry, "accuracy")
            lines = [line for line in lines if not made or line["entry"] != entry.name] + made
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def _show(self, entry: Entry, what: str) -> list[dict[str, Any]]:
        """The worker's lines, printed; [] and its message if it failed: the other engines can still race."""
        try:
            lines = run_worker(self._work, entry, what, _native.physical_cores())
        except WorkerError as error:
            print(error, flush=True)
            return []
        for line in lines:
            print(json.dumps(line), flush=True)
        return lines

    # -- inside ------------------------------------------------------------------------------------------------------

    def _python(self, environment: str) -> Path:
        return python_of(self._work, environment)

    def _once(self, target: Path, make: Callable[..., None], *arguments: Any) -> None:
        """``make(partial, *arguments)`` unless ``target`` exists. Environments are made in place."""
        if target.exists():
            return
        in_place = target.name.startswith("venv-")
        partial = target if in_place else target.with_name(f".partial-{target.name}")
        remove(partial)
        print(f"-- {target.relative_to(self._work)}", flush=True)
        try:
            make(partial, *arguments)
            if not in_place:
                partial.rename(target)
        except BaseException:
            remove(partial)
            raise


STEPS: dict[str, Callable[[Prepare], None]] = {
    "environments": Prepare.environments,
    "checkpoint": Prepare.checkpoint,
    "words": Prepare.words,
    "reference": Prepare.reference,
    "models": Prepare.models,
    "pack": Prepare.pack,
    "accuracy": Prepare.accuracy,
}


def run(*command: str | Path, variables: Mapping[str, str] | None = None) -> None:
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **(variables or {})}
    done = subprocess.run([str(part) for part in command], env={**os.environ, **quiet}, check=False)
    if done.returncode:
        raise SystemExit(f"code {done.returncode} from {' '.join(str(part) for part in command)}")


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for environments, models and results")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--engines", nargs="+", help="of the accuracy step: measure these anew")
    parser.add_argument("--torch-index", help="an index with torch for CPUs: https://download.pytorch.org/whl/cpu")
    arguments = parser.parse_args()
    prepare = Prepare(arguments.work.resolve(), arguments.torch_index, arguments.engines)
    for step in arguments.steps:
        STEPS[step](prepare)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
