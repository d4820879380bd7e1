#!/usr/bin/env python3
"""Shows that the tests can fail: plants one known mistake at a time and demands that a golden test notices.

Each mutant is a textual change of one module, made while it is imported in a forked child that then runs the named
tests; no file is touched. A mutant that survives, or whose text no longer occurs exactly once, fails the check.

    python tools/mutation_check.py [--only NAME ...] [--list]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.machinery
import importlib.util
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "python" / "tinygptv_fast"
GOLDEN = "tests/reference/test_golden.py"
PARITY = "tests/generate/test_golden_parity.py"
LAYOUTS = "tests/generate/test_layouts.py"
BEAMS = "tests/reference/test_beam.py"


@dataclass(frozen=True)
class Mutant:
    """``old`` (exactly once in ``file``) becomes ``new``; ``tests`` must then fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str = GOLDEN


MUTANTS = [
    Mutant("phi-gelu-exact", "reference/phi.py", 'F.gelu(self.fc1(h), approximate="tanh")', "F.gelu(self.fc1(h))"),
    Mutant("phi-norm-eps", "config.py", "norm_eps: float = 1e-5  # LayerNorms", "norm_eps: float = 1e-6  # LayerNorms"),
    Mutant("rms-eps", "config.py", "rms_norm_eps: float = 1e-6", "rms_norm_eps: float = 1e-5"),
    Mutant(
        "vit-norm-eps", "config.py", "norm_eps: float = 1e-6\n    ln_vision", "norm_eps: float = 1e-5\n    ln_vision"
    ),
    Mutant("ln-vision-eps", "config.py", "ln_vision_eps: float = 1e-5", "ln_vision_eps: float = 1e-6"),
    Mutant("qformer-eps", "config.py", "norm_eps: float = 1e-12", "norm_eps: float = 1e-5"),
    Mutant("vit-gelu-tanh", "reference/vision.py", "F.gelu(self.fc1(x))", 'F.gelu(self.fc1(x), approximate="tanh")'),
    Mutant("pos-embed-bilinear", "reference/vision.py", 'mode="bicubic"', 'mode="bilinear"'),
    Mutant("pos-embed-corners", "reference/vision.py", "align_corners=False)", "align_corners=True)"),
    Mutant("vit-q-unscaled", "reference/vision.py", "q = q * (E // self.heads) ** -0.5", "pass"),
    Mutant(
        "qk-norm-bias",
        "reference/phi.py",
        "q, k = self.q_norm(q), self.k_norm(k)",
        "q, k = self.q_norm(q) - self.q_norm.bias, self.k_norm(k) - self.k_norm.bias",
    ),
    Mutant(
        "qk-norm-after-rotary",
        "reference/phi.py",
        "q, k = apply_rotary(q, *rotary), apply_rotary(k, *rotary)",
        "q, k = self.q_norm(apply_rotary(q, *rotary)), self.k_norm(apply_rotary(k, *rotary))",
    ),
    Mutant(
        "qkv-split-three-way",
        "reference/phi.py",
        "view(B, T, self.config.heads, 3, self.config.head_dim).unbind(dim=3)",
        "view(B, T, 3, self.config.heads, self.config.head_dim).unbind(dim=2)",
    ),
    Mutant(
        "no-post-norm",
        "reference/phi.py",
        "return self.post_norm(y) if self.config.post_attention_norm else y",
        "return y",
    ),
    Mutant("mlp-from-residual", "reference/phi.py", "self.mlp(h) + x", "self.mlp(x) + x"),
    Mutant(
        "rope-interleaved",
        "reference/phi.py",
        "torch.cat([-turned[..., R // 2 :], turned[..., : R // 2]], dim=-1)",
        "torch.stack([-turned[..., 1::2], turned[..., ::2]], dim=-1).flatten(-2)",
    ),
    Mutant("rope-theta", "config.py", "rope_theta: float = 10000.0", "rope_theta: float = 5000.0"),
    Mutant(
        "rope-all-dims",
        "reference/phi.py",
        "rotary_tables(positions, self.config.rotary_dims,",
        "rotary_tables(positions, self.config.head_dim,",
    ),
    Mutant("lora-scale", "config.py", "return self.alpha / self.rank", "return self.alpha"),
    Mutant("attention-unscaled", "reference/phi.py", "/ self.config.head_dim**0.5 + mask", "+ mask"),
    Mutant(
        "head-bias",
        "reference/phi.py",
        "return self.head(hidden).float()",
        "return (self.head(hidden) - self.head.bias).float()",
    ),
    Mutant(
        "no-bos-in-training",
        "reference/layout.py",
        "torch.cat([self._embed(self._bos), prompt,",
        "torch.cat([0 * self._embed(self._bos), prompt,",
    ),
    Mutant("conversation-bos-seen", "reference/layout.py", "[int(i != self.pad_id) for i in ids]", "[1 for i in ids]"),
    Mutant(
        "penalty-direction",
        "reference/warpers.py",
        "picked * penalty, picked / penalty",
        "picked / penalty, picked * penalty",
    ),
    Mutant("top-p-strict", "reference/warpers.py", "<= 1 - p", "<= p"),
    Mutant(
        "beam-length",
        "reference/beam.py",
        "score = log_probability / length**",
        "score = log_probability / (length + 1) **",
    ),
    Mutant("beam-late-eos", "reference/beam.py", "elif rank < self.beams:", "else:", BEAMS),
    Mutant(
        "min-length-off-by-one",
        "reference/generation.py",
        "seen.shape[1] < options.min_length",
        "seen.shape[1] <= options.min_length",
    ),
    Mutant(
        "padding-ignored", "reference/phi.py", "allowed = allowed & attention_mask[:, None, None, :].bool()", "pass"
    ),
    Mutant(
        "pixels-bilinear",
        "processing/image.py",
        "picture.resize(side, Image.Resampling.BICUBIC)",
        "picture.resize(side, Image.Resampling.BILINEAR)",
        PARITY,
    ),
    Mutant(
        "fold-lora-scale",
        "checkpoint/recipe.py",
        "base.rows(start, stop) + scale * update",
        "base.rows(start, stop) + update",
        PARITY,
    ),
    Mutant("convert-pos-embed-bilinear", "checkpoint/recipe.py", 'mode="bicubic"', 'mode="bilinear"', PARITY),
    Mutant(
        "convert-split-qkv-chunked",
        "checkpoint/recipe.py",
        "lambda part, head, size: (part, head * size)",
        "lambda part, head, size: (head % 3, part * size)",
        LAYOUTS,
    ),
]


class _MutatingLoader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, mutant: Mutant) -> None:
        super().__init__(name, path)
        self.mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        source = Path(self.path).read_text().replace(self.mutant.old, self.mutant.new)
        return compile(source, self.path, "exec")


class _MutatingFinder:
    """First on ``sys.meta_path``: serves the one mutated module, leaves all others to the usual finders."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant
        self.name = "tinygptv_fast." + mutant.file.removesuffix(".py").replace("/", ".")

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name != self.name:
            return None
        file = str(PACKAGE / self.mutant.file)
        return importlib.util.spec_from_file_location(name, file, loader=_MutatingLoader(name, file, self.mutant))


def check_text(mutant: Mutant) -> None:
    """Raises SystemExit unless the mutant's text occurs exactly once."""
    count = (PACKAGE / mutant.file).read_text().count(mutant.old)
    if count != 1:
        raise SystemExit(
            f"mutation_check: {mutant.name}: its text occurs {count} times in {mutant.file}, expected once"
        )


def run(mutant: Mutant) -> tuple[bool, str]:
    """(whether the tests noticed, the first failing test) of one mutant, in a forked child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os._exit(_child(mutant, writer))
    os.close(writer)
    with os.fdopen(reader) as pipe:
        first_failure = pipe.read().strip()
    status = os.waitpid(child, 0)[1]
    return os.WIFEXITED(status) and os.WEXITSTATUS(status) == 1, first_failure


def _child(mutant: Mutant, writer: int) -> int:
    import pytest

    class Report:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                os.write(writer, f"{report.nodeid.rpartition('::')[2]}\n".encode())

    # A parent that has imported the package or its tests already (pytest, say) would hide the mistake.
    for name in [n for n in sys.modules if n.partition(".")[0] in ("tinygptv_fast", "tests")]:
        del sys.modules[name]
    sys.meta_path.insert(0, _MutatingFinder(mutant))
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
        arguments = ["-x", "-q", "-p", "no:cacheprovider", str(ROOT / mutant.tests), f"--rootdir={ROOT}"]
        return int(pytest.main(arguments, plugins=[Report()]))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", metavar="NAME", help="run these mutants only")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    arguments = parser.parse_args(argv)
    names = [mutant.name for mutant in MUTANTS]
    if arguments.list:
        print("\n".join(names))
        return 0
    unknown = sorted(set(arguments.only or []) - set(names))
    if unknown:
        parser.error(f"--only has unknown names {unknown}, expected some of {names}")
    chosen = [m for m in MUTANTS if not arguments.only or m.name in arguments.only]
    for mutant in chosen:
        check_text(mutant)
    os.chdir(ROOT)
    import torch  # noqa: F401  (imported once, before forking, to spare every child the wait)

    survivors = 0
    for mutant in chosen:
        began = time.perf_counter()
        noticed, failure = run(mutant)
        survivors += not noticed
        verdict = f"noticed by {failure}" if noticed else "SURVIVED"
        print(f"{mutant.name:24} {verdict}  ({time.perf_counter() - began:.1f} s)", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants noticed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
