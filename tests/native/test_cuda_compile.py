"""The CUDA sources under the real compiler: every kernel for every target of the library, its resources, and the
instructions that make it fast.

nvcc is the one on PATH, or that of the extra cuda-test, which brings nvdisasm, too. Where there is no nvcc these tests
are skipped, but not in CI, which fails without it; the emulation's tests (test_cpp.py) run everywhere. A target that
nvcc does not know is a failure; without nvdisasm the instructions are not looked at, and the summary of the tests says
so.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from side_by_side import side_by_side


def find_tool(name: str) -> str | None:
    wheels = sorted(Path(sysconfig.get_path("purelib")).glob(f"nvidia/cu*/bin/{name}"))
    return shutil.which(name) or (str(wheels[-1]) if wheels else None)


NVCC, NVDISASM = find_tool("nvcc"), find_tool("nvdisasm")
IN_CI = os.environ.get("CI") == "true"  # as .ci/run sets it: there nothing may be left out
pytestmark = pytest.mark.skipif(NVCC is None and not IN_CI, reason="no nvcc on this machine")

TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90a", "sm_120")  # cmake/cuda.cmake, but for the PTX
MAX_REGISTERS = 96  # 256 threads a block, two blocks a multiprocessor and room left
# By a part of the mangled name. f32 pages: a row is four registers where f16 has two, and four blocks of 128 threads
# fit. Prefill attention: queries, scores and outputs of a warp are 92 registers, and three such blocks fit. Matrix
# products live on one block of 256 threads a multiprocessor, with all the registers a thread can have: their tiles are
# sums in registers (up to 128 a thread), and stages in shared memory hide the latency, not other blocks.
MORE_REGISTERS = {"paged_attention_cutsILNS0_6KvKindE0E": 128, "prefill_attention": 168, "_gemmI": 255}
# There ptxas takes 140 for f32 pages, which only the exact mode has: three blocks of 128 threads fit.
MORE_ON = {"sm_120": {"paged_attention_cutsILNS0_6KvKindE0E": 168}}

# Machine instructions that a kernel family was written for. A product's weights arrive 16 bytes at a time, past the
# registers (LDGSTS) or past the first cache; fragments come from shared memory in one load.
COPY, LOAD, SHARED = r"LDGSTS\S*\.128", r"LDG\S*\.128", r"LDS\S*\.128"
MMA, MMA_BFLOAT = r"HMMA\.16816\.F32\b(?!\.BF16)", r"HMMA\.16816\.F32\.BF16"
INSTRUCTIONS = {
    "int4_gemv": (LOAD, SHARED, MMA),
    "int4_gemm": (COPY, SHARED, MMA),
    "int8_gemm": (COPY, SHARED, MMA),
    "half_gemmINS0_11HalfElement": (COPY, SHARED, MMA),
    "half_gemmINS0_15BFloat16Element": (COPY, SHARED, MMA_BFLOAT),
    "float_gemm": (COPY, SHARED, r"FFMA"),
    "paged_attention_cuts": (r"LDG\S*\.(128|64)\b",),
    "prefill_attention": (r"LDSM\S*\.4\b", r"HMMA\.16816\.F32"),
    "norm_rows": (LOAD,),
    "qkv_append": (),
    "page_copy": (LOAD, r"STG\S*\.128"),
    "embedding_rows": (),
    "paged_attention_merge": (),
    "sample_rows": (),
    "advance_rows": (),
}

# Targets whose launches may start before the one before them is over, and what asks for weights meanwhile.
EARLY_STARTS = ("sm_90a", "sm_120")
PREFETCHES = ("int4_gemv", "norm_rows")

DECODER = ("decoder", "draw_inputs", "kernel_table", "runner", "sampler", "step", "storage", "table", "weights")
DECODER_SOURCES = ("tests/cuda_decoder_test", "tests/cuda_graphs_test", *(f"model/cuda/{name}" for name in DECODER))
DEVICE_TESTS = (
    *("int4_gemv", "paged_attention", "prefill_attention", "int4_gemm", "int8_gemm", "half_gemm", "float_gemm"),
    # the prefix sets these tests apart from those of the CPU's ops
    *("cuda_norm", "cuda_qkv_append", "cuda_page_copy", "cuda_embedding", "cuda_sampling", "cuda_advance"),
)
LATER = "compute_90"  # PTX for GPUs that have no code of their own
CSRC = Path(__file__).resolve().parents[2] / "csrc"


def nvcc(*arguments: str | Path) -> str:
    command = [str(NVCC), "-std=c++17", f"-I{CSRC}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@dataclass(frozen=True)
class Compiled:
    """What nvcc, and ptxas, had to say, and the file."""

    report: str
    path: Path


Job = tuple[str, str]  # what to compile (a key of FLAGS), and the target or the name of the source
KERNELS = CSRC / "model/cuda/kernels.cc"  # instantiates every kernel of the library, and nothing else does
OPTIMISED = ("-O3", "-x", "cu")
# That it compiles is all that is asked: its kernels are those of KERNELS. Optimising them took half of the time.
UNOPTIMISED = ("-O0", "-Xcicc", "-O0", "-x", "cu", "-arch=sm_90", "-c")


def compile_job(job: Job, folder: Path) -> Compiled:
    what, name = job
    out = folder / f"{what} {name}".replace("/", "-")
    if what == "kernels":
        form = ("-ptx",) if name == LATER else ("-cubin", "-Xptxas", "-v")
        return Compiled(nvcc(*OPTIMISED, f"-arch={name}", *form, KERNELS, "-o", out), out)
    source = {
        "device test": f"tests/{name}_test",
        "host": f"kernels/cuda/{name.removeprefix('cuda_')}",
        "decoder": name,
    }
    return Compiled(nvcc(*UNOPTIMISED, CSRC / f"{source[what]}.cc", "-o", out), out)


# What the tests with one argument wait for.
WAITS = {
    "test_every_kernel_compiles_without_spills": ("kernels",),
    "test_kernels_have_the_instructions_they_were_written_for": ("kernels",),
    "test_no_kernel_touches_memory_before_its_wait": ("kernels",),
    "test_later_gpus_get_ptx": ("kernels",),
    "test_device_tests_compile": ("device test", "host"),
    "test_the_decoder_compiles": ("decoder",),
}


@pytest.fixture(scope="module")
def compiled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str, str], Compiled]]:
    folder = tmp_path_factory.mktemp("nvcc")

    def needed(test: str, name: str) -> list[Job]:
        return [(what, name) for what in WAITS.get(test, ())]

    with side_by_side(request, needed, lambda job: compile_job(job, folder)) as result:
        yield lambda what, name: result((what, name))


def family(kernel: str) -> str:
    """The name of a kernel's template, from its mangled name."""
    match = re.match(r"_ZN3tgv4cuda(\d+)", kernel)
    assert match, kernel
    return kernel[match.end() :][: int(match[1])]


def families(repository: Path) -> set[str]:
    """Every kernel that a source defines."""
    found = set()
    for path in (repository / "csrc/kernels/cuda").glob("*.cuh"):
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r"__global__ void(?: __launch_bounds__\([^)]*\))?\s+(\w+)\(", text))
    return found


def test_ci_leaves_nothing_out() -> None:
    assert not IN_CI or (NVCC and NVDISASM), "these checks need nvcc and nvdisasm: pip install '.[cuda-test]'"


def test_nvcc_knows_every_target(repository: Path) -> None:
    """One that does not would leave a GPU without code of its own."""
    known = nvcc("--list-gpu-code")
    assert [target for target in TARGETS if target.removesuffix("a") not in known.split()] == []
    cmake = (repository / "cmake/cuda.cmake").read_text(encoding="utf-8")
    assert set(re.findall(r"(\d+a?)-real", cmake)) == {target.removeprefix("sm_") for target in TARGETS}
    assert re.findall(r"(\d+a?)-virtual", cmake) == ["90"]


@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles_without_spills(
    repository: Path, compiled: Callable[[str, str], Compiled], target: str
) -> None:
    report = compiled("kernels", target).report
    kernels = re.findall(r"Compiling entry function '(\w+)'", report)
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill stores", report)]
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", report)]
    assert {family(kernel) for kernel in kernels} == families(repository)
    assert len(kernels) == len(spills) == len(registers)
    assert not any(spills), dict(zip(kernels, spills, strict=True))
    assert set(re.findall(r"(\d+) bytes stack frame", report)) == {"0"}  # an array that is indexed at run time
    for kernel, used in zip(kernels, registers, strict=True):
        more = MORE_REGISTERS | MORE_ON.get(target, {})
        limits = [limit for part, limit in more.items() if part in kernel]
        assert used <= (limits[0] if limits else MAX_REGISTERS), kernel


def disassembly(cubin: Path) -> dict[str, str]:
    """Machine code by kernel."""
    if NVDISASM is None and not IN_CI:
        pytest.skip("INSTRUCTIONS NOT CHECKED: nvcc is here, nvdisasm is not; see the extra cuda-test")
    done = subprocess.run([NVDISASM, "-c", cubin], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    parts = re.split(r"^\.text\.(\w+):$", done.stdout, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("target", TARGETS)
def test_kernels_have_the_instructions_they_were_written_for(
    compiled: Callable[[str, str], Compiled], target: str
) -> None:
    kernels = compiled("kernels", target)
    code = disassembly(kernels.path)
    assert set(code) == set(re.findall(r"Compiling entry function '(\w+)'", kernels.report))
    for kernel, text in code.items():
        wanted = [patterns for name, patterns in INSTRUCTIONS.items() if name in kernel]
        assert len(wanted) == 1, kernel
        for pattern in wanted[0]:
            assert re.search(pattern, text), f"{kernel} for {target} has no {pattern}"
        assert not re.search(r"\b(LDL|STL)\b", text), f"{kernel} for {target} keeps values in memory of its own"
        narrow = re.search(r"LDG\S*\.[US]8\b", text)
        assert not (narrow and "_gem" in family(kernel)), f"{kernel} for {target} reads byte by byte"


@pytest.mark.parametrize("target", TARGETS)
def test_no_kernel_touches_memory_before_its_wait(compiled: Callable[[str, str], Compiled], target: str) -> None:
    """device/dependent.cuh: before the wait for the launch before, weights are asked for, and nothing is read or
    written; behind it the next launch may start. GPUs before sm_90 have no such launches."""
    for kernel, text in disassembly(compiled("kernels", target).path).items():
        before, wait, behind = text.partition("ACQBULK")
        if target not in EARLY_STARTS:
            assert not wait and "PREEXIT" not in text and "CCTL.E.PF2" not in text, kernel
            continue
        assert wait and "PREEXIT" in behind and "PREEXIT" not in before, kernel
        assert not re.search(r"\b(LDG|STG|LDGSTS|ATOM|ATOMG|RED|LD|ST)\b", before), f"{kernel} for {target}"
        assert ("CCTL.E.PF2" in before) == (family(kernel) in PREFETCHES), f"{kernel} for {target}"


@pytest.mark.parametrize("target", [LATER])
def test_later_gpus_get_ptx(repository: Path, compiled: Callable[[str, str], Compiled], target: str) -> None:
    """What this nvcc has no target of its own for gets the same kernels and products."""
    ptx = compiled("kernels", target).path.read_text(encoding="utf-8")
    assert ".target sm_90\n" in ptx
    assert {family(kernel) for kernel in re.findall(r"\.entry (\w+)", ptx)} == families(repository)
    assert "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32" in ptx
    assert "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32" in ptx
    assert ptx.count("griddepcontrol.wait") == ptx.count("griddepcontrol.launch_dependents") == ptx.count(".entry ")


@pytest.mark.parametrize("name", DEVICE_TESTS)
def test_device_tests_compile(compiled: Callable[[str, str], Compiled], name: str) -> None:
    """The executables that benchmarks/gpu_check.sh runs on a GPU, from the same sources as the emulation's."""
    assert compiled("device test", name).path.exists()
    assert compiled("host", name).path.exists()


@pytest.mark.parametrize("name", DECODER_SOURCES)
def test_the_decoder_compiles(compiled: Callable[[str, str], Compiled], name: str) -> None:
    """Its sources serve the emulation and nvcc, so they are C++17."""
    assert compiled("decoder", name).path.exists()


def test_device_wrappers_compile_in_full(repository: Path, tmp_path: Path) -> None:
    """Also those that no kernel uses yet: bf16 and s8 products, ldmatrix, bulk copies, the grid barrier."""
    source = tmp_path / "all.cu"
    headers = sorted((repository / "csrc/kernels/cuda/device").glob("*.cuh"))
    includes = "".join(f'#include "kernels/cuda/device/{header.name}"\n' for header in headers)
    source.write_text(
        includes
        + """
using namespace tgv::cuda;
__global__ void use(unsigned* counter, const uint4* in, float* out) {
  __shared__ __align__(128) unsigned char cells[1024];
  __shared__ __align__(8) uint64_t barrier[1];
  if (threadIdx.x == 0) mbarrier_init(barrier, 1);
  __syncthreads();
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect(barrier, 512);
    bulk_copy(cells, in, 512, barrier);
  }
  mbarrier_wait(barrier, 0);
  copy_async_16(cells + 512 + threadIdx.x * 16, in + threadIdx.x);
  commit_copies();
  wait_copies<0>();
  __syncthreads();
  uint32_t a[4], b[4];
  ldmatrix_x4<false>(a, cells + threadIdx.x * 16);
  ldmatrix_x4<true>(b, cells + 512 + threadIdx.x * 16);
  float c[4] = {0, 0, 0, 0};
  int32_t i[4] = {0, 0, 0, 0};
  mma_f16(c, a, b[0], b[1], c);
  mma_bf16(c, a, b[2], b[3], c);
  mma_s8(i, a, b[0], b[1], i);
  const uint2 levels = int8x4_to_half4(load_once_4(in)), floats = e4m3x4_to_half4(a[0]);
  c[2] += bfloat2_to_float2(floats_to_bfloat2(c[0], c[1])).x + half2_to_float2(floats_to_half2(c[2], c[3])).y;
  c[3] += half2_to_float2(half2_multiply(levels.x, floats.y)).x + bits_to_float(pick_bytes<0x4140>(a[1], a[2]));
  a[0] = half2_multiply(a[0], b[0]) + thread_read_anew();
  b[0] = add_acquire_release(counter, 1);
  HalfElement::store(out, a[0] & 31, HalfElement::load(in, 0));
  BFloat16Element::store(out, b[0] & 31, BFloat16Element::load(in, 0));
  FloatElement::store(out, 0, FloatElement::load(in, 0));
  grid_barrier(counter, 1);
  out[threadIdx.x] = c[0] + exp2_fast(c[1]) + i[0];
  counter[1 + threadIdx.x] = floats_to_half2(c[0], c[1]) + round_to_half(c[2]).bits + floats_to_bfloat2(c[0], c[1]) +
                             round_to_e4m3x2(c[2], c[3]) + bits_of(c[3]);
  out[32 + threadIdx.x] = bfloat2_to_float2(a[0]).x;
  out[threadIdx.x] = c[0] + exp2_fast(c[1]) + c[2] + c[3] + i[0];
}
""",
        encoding="utf-8",
    )
    nvcc("-O3", "-arch=sm_90", "-cubin", source, "-o", tmp_path / "all.cubin")


def test_no_inline_assembly_outside_the_wrappers(repository: Path) -> None:
    cuda = repository / "csrc/kernels/cuda"
    with_assembly = {path.parent.name for path in cuda.rglob("*.cu*") if re.search(r"\basm\b", path.read_text("utf-8"))}
    assert with_assembly == {"device"}
