"""The CUDA sources under the real compiler: every instance for every architecture, with no spills.

nvcc is the one on PATH, or that of the extra cuda-test. Skipped where there is neither; the emulation's tests
(test_cpp.py) run everywhere.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest


def find_nvcc() -> str | None:
    wheels = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin/nvcc"))
    return shutil.which("nvcc") or (str(wheels[-1]) if wheels else None)


NVCC = find_nvcc()
pytestmark = pytest.mark.skipif(NVCC is None, reason="no nvcc on this machine")

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90")
MAX_REGISTERS = 96  # 256 threads a block, two blocks a multiprocessor and room left
# By a part of the mangled name. f32 pages: a row is four registers where f16 has two, and four blocks of 128 threads
# fit. Prefill attention: queries, scores and outputs of a warp are 92 registers, and three such blocks fit. Matrix
# products live on one block of 256 threads a multiprocessor, with all the registers a thread can have: their tiles are
# sums in registers (up to 128 a thread), and stages in shared memory hide the latency, not other blocks.
MORE_REGISTERS = {"paged_attention_cutsILNS0_6KvKindE0E": 128, "prefill_attention": 168, "_gemmI": 255}

DECODER = ("decoder", "draw_inputs", "kernels", "sampler", "step", "storage", "table", "weights")


def nvcc(repository: Path, *arguments: str | Path) -> str:
    command = [str(NVCC), "-std=c++17", "-O3", f"-I{repository / 'csrc'}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_instance_compiles_without_spills(repository: Path, tmp_path: Path, architecture: str) -> None:
    source = repository / "csrc/kernels/cuda/instances.cu"
    report = nvcc(repository, f"-arch={architecture}", "-cubin", "-Xptxas", "-v", source, "-o", tmp_path / "out.cubin")
    kernels = re.findall(r"Compiling entry function '(\w+)'", report)
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill stores", report)]
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", report)]
    instances = len(re.findall(r"^template __global__", source.read_text(encoding="utf-8"), re.MULTILINE))
    assert len(kernels) == len(spills) == len(registers) == instances
    assert spills == [0] * instances
    assert set(re.findall(r"(\d+) bytes stack frame", report)) == {"0"}  # an array that is indexed at run time
    for kernel, used in zip(kernels, registers, strict=True):
        limits = [limit for part, limit in MORE_REGISTERS.items() if part in kernel]
        assert used <= (limits[0] if limits else MAX_REGISTERS), kernel


@pytest.mark.parametrize(
    "name",
    [
        *("int4_gemv", "paged_attention", "prefill_attention", "int4_gemm", "half_gemm", "float_gemm"),
        # the prefix sets these tests apart from those of the CPU's ops
        *("cuda_norm", "cuda_qkv_append", "cuda_page_copy", "cuda_embedding", "cuda_sampling"),
    ],
)
def test_device_tests_compile(repository: Path, tmp_path: Path, name: str) -> None:
    """The executables that benchmarks/gpu_check.sh runs on a GPU, from the same sources as the emulation's."""
    test = repository / f"csrc/tests/{name}_test.cc"
    host = repository / f"csrc/kernels/cuda/{name.removeprefix('cuda_')}.cc"
    nvcc(repository, "-x", "cu", "-arch=sm_90", "-c", test, "-o", tmp_path / "test.o")
    nvcc(repository, "-x", "cu", "-arch=sm_90", "-c", host, "-o", tmp_path / "host.o")


@pytest.mark.parametrize("name", ["tests/cuda_decoder_test", *(f"model/cuda/{name}" for name in DECODER)])
def test_the_decoder_compiles(repository: Path, tmp_path: Path, name: str) -> None:
    """Its sources serve the emulation and nvcc, so they are C++17."""
    nvcc(repository, "-x", "cu", "-arch=sm_90", "-c", repository / f"csrc/{name}.cc", "-o", tmp_path / "out.o")


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
    nvcc(repository, "-arch=sm_90", "-cubin", source, "-o", tmp_path / "all.cubin")


def test_no_inline_assembly_outside_the_wrappers(repository: Path) -> None:
    cuda = repository / "csrc/kernels/cuda"
    with_assembly = {path.parent.name for path in cuda.rglob("*.cu*") if re.search(r"\basm\b", path.read_text("utf-8"))}
    assert with_assembly == {"device"}
