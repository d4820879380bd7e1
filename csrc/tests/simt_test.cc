// The emulation itself: what it computes, and that it catches what it exists to catch.
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/cuda/device/bits.cuh"
#include "kernels/cuda/device/convert.cuh"
#include "kernels/cuda/device/copy_async.cuh"
#include "kernels/cuda/device/dependent.cuh"
#include "kernels/cuda/device/elements.cuh"
#include "kernels/cuda/device/load.cuh"
#include "kernels/cuda/device/mma.cuh"
#include "kernels/cuda/device/round.cuh"
#include "kernels/cuda/device/sync.cuh"
#include "tests/check.h"
#include "tests/schedules.h"

namespace tgv::test {
namespace {

// --- warps
// ----------------------------------------------------------------------------------------------------------
__global__ void shuffles(int* out) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  int* mine = out + threadIdx.x * 6;
  mine[0] = __shfl_xor_sync(~0u, lane, 5);
  mine[1] = __shfl_down_sync(~0u, lane, 3);
  mine[2] = __shfl_sync(~0u, lane * 10, 7);
  mine[3] = static_cast<int>(__ballot_sync(~0u, lane % 3 == 0));
  // two halves of a warp meet apart
  const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  mine[4] = __shfl_xor_sync(half, lane, 1);
  mine[5] = __syncthreads_count(lane == 2);
}

TEST(shuffles_votes_and_masks) {
  for_each_schedule([] {
    std::vector<int> out(70 * 6, -1);
    simt::launch(shuffles, dim3(1), dim3(64), 0, false, out.data());
    for (int i = 0; i < 64; ++i) {
      const int lane = i % 32, *mine = out.data() + i * 6;
      CHECK_EQ(mine[0], lane ^ 5);
      CHECK_EQ(mine[1], lane + 3 < 32 ? lane + 3 : lane);
      CHECK_EQ(mine[2], 70);
      CHECK_EQ(static_cast<unsigned>(mine[3]), 0x49249249u);
      CHECK_EQ(mine[4], lane ^ 1);
      CHECK_EQ(mine[5], 2);
    }
  });
}

__global__ void divergent_shuffle(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(~0u, 1, 1);  // the others never come
}
__global__ void wrong_mask() { (void)__shfl_xor_sync(0x1u, 1, 0); }
__global__ void different_operations(int* out) {
  out[threadIdx.x] = threadIdx.x % 2 ? __shfl_xor_sync(~0u, 1, 1) : __any_sync(~0u, 1);
}
__global__ void divergent_barrier() {
  if (threadIdx.x < 40) {
    __syncthreads();
  } else {
    (void)__shfl_xor_sync(~0u, 1,
                          1);  // lanes 40..63 wait for lanes 32..39, which wait at the barrier
  }
}

TEST(misuse_is_an_error_not_a_hang) {
  std::vector<int> out(64);
  CHECK_THROWS(simt::Error,
               simt::launch(divergent_shuffle, dim3(1), dim3(32), 0, false, out.data()),
               "deadlock");
  CHECK_THROWS(simt::Error, simt::launch(wrong_mask, dim3(1), dim3(32), 0, false),
               "mask leaves it out");
  CHECK_THROWS(simt::Error,
               simt::launch(different_operations, dim3(1), dim3(32), 0, false, out.data()),
               "different warp operations");
  CHECK_THROWS(simt::Error, simt::launch(divergent_barrier, dim3(1), dim3(64), 0, false),
               "deadlock");
}

// --- block barriers
// -------------------------------------------------------------------------------------------------
// Every thread writes, then reads a neighbour in another warp; twice, through the same array.
__global__ void neighbours(int* out) {
  TGV_SHARED(int, cell, [128]);
  const int i = static_cast<int>(threadIdx.x), other = (i + 37) % 128;
  int sum = 0;
  for (int round = 0; round < 2; ++round) {
    cell[i] = i * (round + 1);
    __syncthreads();
    sum += cell[other];
    __syncthreads();
  }
  out[blockIdx.x * 128 + threadIdx.x] = sum;
}

void check_neighbours() {
  std::vector<int> out(5 * 128, -1);
  simt::launch(neighbours, dim3(5), dim3(128), 0, false, out.data());
  for (size_t i = 0; i < out.size(); ++i)
    CHECK_EQ(out[i], static_cast<int>((i % 128 + 37) % 128) * 3);
}

TEST(block_barriers) { for_each_schedule(check_neighbours); }

TEST(a_missing_barrier_is_seen) {
  for (int barrier = 0; barrier < 3; ++barrier)
    CHECK(mutation_is_seen(barrier, false, check_neighbours));
  CHECK(!mutation_is_seen(-1, false, check_neighbours));
}

__global__ void early_exit(int* out) {
  if (threadIdx.x >= 20) return;
  __syncthreads();  // exited threads count as arrived
  out[threadIdx.x] = 1;
}

TEST(exited_threads_do_not_hold_a_barrier) {
  std::vector<int> out(20);
  for_each_schedule([&] { simt::launch(early_exit, dim3(1), dim3(96), 0, false, out.data()); });
  CHECK_EQ(std::accumulate(out.begin(), out.end(), 0), 20);
}

__global__ void unwritten(float* out) {
  TGV_DYNAMIC_SHARED(float, dynamic);
  TGV_SHARED(float, fixed, [4]);
  out[blockIdx.x * 2] = dynamic[threadIdx.x];
  out[blockIdx.x * 2 + 1] = fixed[threadIdx.x];
  dynamic[threadIdx.x] = fixed[threadIdx.x] = 1;  // must not be seen by the next block
}

TEST(unwritten_shared_memory_is_nan) {
  std::vector<float> out(40);
  simt::launch(unwritten, dim3(20), dim3(1), 64, false, out.data());
  for (float value : out) CHECK(std::isnan(value));
}

// --- asynchronous copies
// -------------------------------------------------------------------------------------------- A
// three-stage ring: stage s + 2 is on its way while stage s is used, by other threads than copied
// it.
__global__ void ring(const float* in, float* out, int stages) {
  TGV_SHARED(float, slot, [3][256]);
  const int i = static_cast<int>(threadIdx.x);
  for (int s = 0; s < 2; ++s) {
    cuda::copy_async_16(&slot[s][i * 4], in + s * 256 + i * 4);
    cuda::commit_copies();
  }
  float sum = 0;
  for (int s = 0; s < stages; ++s) {
    cuda::wait_copies<1>();
    __syncthreads();
    sum += slot[s % 3][i * 7 % 256];
    if (s + 2 < stages) cuda::copy_async_16(&slot[(s + 2) % 3][i * 4], in + (s + 2) * 256 + i * 4);
    cuda::commit_copies();
  }
  out[i] = sum;
}

void check_ring() {
  const int stages = 9;
  std::vector<float> in(stages * 256), out(64);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i * 37 % 101);
  simt::launch(ring, dim3(1), dim3(64), 0, false, static_cast<const float*>(in.data()), out.data(),
               stages);
  for (int t = 0; t < 64; ++t) {
    float expected = 0;
    for (int s = 0; s < stages; ++s) expected += in[static_cast<size_t>(s * 256 + t * 7 % 256)];
    CHECK_EQ(out[static_cast<size_t>(t)], expected);
  }
}

TEST(asynchronous_copies) { for_each_schedule(check_ring); }

TEST(short_waits_and_missing_barriers_around_copies_are_seen) {
  CHECK(mutation_is_seen(-1, true, check_ring));
  for (int barrier : {0, 1, 4, 8}) CHECK(mutation_is_seen(barrier, false, check_ring));
}

__global__ void partial_copy(const uint32_t* in, uint32_t* out) {
  TGV_SHARED(uint4, cell, [1]);
  cuda::copy_async_16(&cell[0], in, 8);
  cuda::commit_copies();
  cuda::wait_copies<0>();
  std::memcpy(out, &cell[0], 16);
}

TEST(a_partial_copy_fills_with_zeros) {
  const uint32_t in[2] = {1, 2};  // 8 bytes: AddressSanitizer sees a longer read
  uint32_t out[4] = {9, 9, 9, 9};
  simt::launch(partial_copy, dim3(1), dim3(1), 0, false, static_cast<const uint32_t*>(in), &out[0]);
  CHECK(out[0] == 1 && out[1] == 2 && out[2] == 0 && out[3] == 0);
}

__global__ void bulk(const float* in, float* out, int rounds, bool wait) {
  TGV_SHARED(float, cell, [128]);
  TGV_SHARED(uint64_t, barrier, [1]);
  if (threadIdx.x == 0) cuda::mbarrier_init(barrier, 1);
  __syncthreads();
  float sum = 0;
  for (int r = 0; r < rounds; ++r) {
    if (threadIdx.x == 0) {
      cuda::mbarrier_arrive_expect(barrier, 512);
      cuda::bulk_copy(cell, in + r * 128, 256, barrier);
      cuda::bulk_copy(cell + 64, in + r * 128 + 64, 256, barrier);
    }
    if (wait) cuda::mbarrier_wait(barrier, static_cast<unsigned>(r & 1));
    sum += cell[(threadIdx.x * 5) % 128];
    __syncthreads();
  }
  out[threadIdx.x] = sum;
}

void check_bulk(bool wait) {
  std::vector<float> in(5 * 128), out(64);
  std::iota(in.begin(), in.end(), 1.0f);
  simt::launch(bulk, dim3(1), dim3(64), 0, false, static_cast<const float*>(in.data()), out.data(),
               5, wait);
  for (int t = 0; t < 64; ++t) {
    float expected = 0;
    for (int r = 0; r < 5; ++r) expected += in[static_cast<size_t>(r * 128 + t * 5 % 128)];
    CHECK_EQ(out[static_cast<size_t>(t)], expected);
  }
}

TEST(bulk_copies_and_mbarriers) {
  for_each_schedule([] { check_bulk(true); });
  CHECK(mutation_is_seen(-1, false, [] { check_bulk(false); }));
  CHECK(mutation_is_seen(0, false,
                         [] { check_bulk(true); }));  // used before its init, or a copy overtaken
}

// --- between blocks
// -------------------------------------------------------------------------------------------------
__global__ void grid_sums(unsigned* counter, float* slots, float* out, int phases) {
  float total = 0;
  for (int p = 0; p < phases; ++p) {
    float* now = slots + (p & 1) * gridDim.x;  // two buffers: one barrier per phase is enough
    if (threadIdx.x == 0) now[blockIdx.x] = static_cast<float>(blockIdx.x + p);
    cuda::grid_barrier(counter, static_cast<unsigned>(p + 1));
    for (unsigned b = 0; b < gridDim.x; ++b) total += now[b];
  }
  out[blockIdx.x * blockDim.x + threadIdx.x] = total;
}

TEST(grid_barriers) {
  for_each_schedule([] {
    constexpr int kBlocks = 5, kPhases = 40;
    unsigned counter = 0;
    std::vector<float> slots(2 * kBlocks), out(kBlocks * 64);
    simt::launch(grid_sums, dim3(kBlocks), dim3(64), 0, true, &counter, slots.data(), out.data(),
                 kPhases);
    float expected = 0;
    for (int p = 0; p < kPhases; ++p) expected += kBlocks * (kBlocks - 1) / 2.0f + kBlocks * p;
    for (float value : out) CHECK_EQ(value, expected);
  });
}

__global__ void one_block_fails(unsigned* counter) {
  if (blockIdx.x == 1) throw simt::Error("this block fails");
  cuda::grid_barrier(counter, 1);
}

TEST(a_failing_block_releases_the_others) {
  unsigned counter = 0;
  CHECK_THROWS(simt::Error, simt::launch(one_block_fails, dim3(3), dim3(32), 0, true, &counter),
               "this block fails");
}

// --- launches that start before the one before them is over
__global__ void write_doubles(const float* x, float* y) {
  cuda::wait_for_previous();
  y[blockIdx.x * blockDim.x + threadIdx.x] = 2.0f * x[blockIdx.x * blockDim.x + threadIdx.x];
}

// Adds what was prefetched and what the launch before wrote. reads_early: the latter, too, is read
// before the wait.
__global__ void add_doubles(const float* weights, const float* y, float* out, bool reads_early) {
  const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
  cuda::prefetch_line(weights + at);
  TGV_DYNAMIC_SHARED(float, staged);
  staged[threadIdx.x] = weights[at];
  float value = y[at];
  __syncthreads();
  cuda::wait_for_previous();
  if (!reads_early) value = y[at];
  out[at] = staged[threadIdx.x ^ 1u] + value;
}

__global__ void waits_sometimes(float* out) {
  if (threadIdx.x != 3) cuda::wait_for_previous();
  out[threadIdx.x] = 0.0f;
}

void check_early_starts(bool reads_early) {
  constexpr unsigned kBlocks = 3, kThreads = 64, kCount = kBlocks * kThreads;
  std::vector<float> x(kCount), y(kCount, -1.0f), weights(kCount), out(kCount);
  for (unsigned i = 0; i < kCount; ++i) x[i] = static_cast<float>(i), weights[i] = 0.25f * x[i];
  simt::Stream stream;
  stream.begin_capture();
  stream.launch(write_doubles, dim3(kBlocks), dim3(kThreads), 0, true, x.data(), y.data());
  stream.launch(add_doubles, dim3(kBlocks), dim3(kThreads), 4 * kThreads, true, weights.data(),
                y.data(), out.data(), reads_early);
  const simt::Graph graph = stream.end_capture();
  graph.run();
  for (unsigned i = 0; i < kCount; ++i) CHECK_EQ(out[i], weights[i ^ 1u] + 2.0f * x[i]);
}

TEST(early_starts) {
  for_each_schedule([] { check_early_starts(false); });
  CHECK(mutation_is_seen(-1, false, [] { check_early_starts(true); }));
  CHECK(mutation_is_seen(-1, false, [] {
    simt::options().unwaiting_launch = 1;
    check_early_starts(false);
  }));
  RestoreOptions restore;
  simt::options().early_starts = false;
  simt::options().order = 1;
  check_early_starts(true);  // nobody starts early, so nobody can read too early
}

TEST(a_launch_that_may_start_early_must_wait) {
  std::vector<float> out(32);
  simt::Stream stream;
  const auto launch = [&](bool dependent) {
    stream.launch(waits_sometimes, dim3(1), dim3(32), 0, dependent, out.data());
  };
  launch(false);
  CHECK_THROWS(simt::Error, launch(true), "thread 3 of block 0 never waits for the launch before");
  stream.begin_capture();
  launch(false), launch(true);
  const simt::Graph graph = stream.end_capture();
  for_each_schedule([&] { CHECK_THROWS(simt::Error, graph.run(), "thread 3 of block 0 never"); });
}

// --- tensor core
// ----------------------------------------------------------------------------------------------------
template <class Accumulator>
struct Operands {
  uint32_t a[32][4], b[32][2];
  Accumulator c[32][4], d[32][4];
};

__global__ void multiply_f16(Operands<float>* o) {
  auto& x = *o;
  cuda::mma_f16(x.d[threadIdx.x], x.a[threadIdx.x], x.b[threadIdx.x][0], x.b[threadIdx.x][1],
                x.c[threadIdx.x]);
}
__global__ void multiply_bf16(Operands<float>* o) {
  auto& x = *o;
  cuda::mma_bf16(x.d[threadIdx.x], x.a[threadIdx.x], x.b[threadIdx.x][0], x.b[threadIdx.x][1],
                 x.c[threadIdx.x]);
}
__global__ void multiply_s8(Operands<int32_t>* o) {
  auto& x = *o;
  cuda::mma_s8(x.d[threadIdx.x], x.a[threadIdx.x], x.b[threadIdx.x][0], x.b[threadIdx.x][1],
               x.c[threadIdx.x]);
}

// Element (row, k) of A in the PTX manual's own terms: for f16, a[i] holds row = g (i even) or g +
// 8, and k = 2t + {0, 1} for i < 2 or that + 8 for i >= 2. For s8, 4t + {0..3} and + 16.
template <class Accumulator, class Set>
void fill(Operands<Accumulator>& o, int k_size, Set set, const std::vector<int>& a,
          const std::vector<int>& b) {
  const int per_word = k_size / 8;
  std::memset(&o, 0, sizeof o);
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      for (int e = 0; e < per_word; ++e) {
        const int row = g + (i % 2) * 8, k = t * per_word + e + (i / 2) * k_size / 2;
        o.a[lane][i] |= set(a[static_cast<size_t>(row * k_size + k)], e);
        if (i < 2) {
          const int k_b = t * per_word + e + i * k_size / 2;
          o.b[lane][i] |= set(b[static_cast<size_t>(k_b * 8 + g)], e);
        }
      }
      o.c[lane][i] = static_cast<Accumulator>((g + (i / 2) * 8) * 100 + t * 2 + i % 2);
    }
  }
}

template <class Accumulator, class Set>
void check_mma(void (*kernel)(Operands<Accumulator>*), int k_size, Set set) {
  std::mt19937 random(3);
  std::vector<int> a(static_cast<size_t>(16 * k_size)), b(static_cast<size_t>(k_size * 8));
  for (int& value : a)
    value = static_cast<int>(random() % 17) - 8;  // small integers: every sum is exact
  for (int& value : b) value = static_cast<int>(random() % 17) - 8;
  Operands<Accumulator> o;
  fill(o, k_size, set, a, b);
  simt::launch(kernel, dim3(1), dim3(32), 0, false, &o);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + (i / 2) * 8, column = lane % 4 * 2 + i % 2;
      int expected = row * 100 + column;
      for (int k = 0; k < k_size; ++k) {
        expected +=
            a[static_cast<size_t>(row * k_size + k)] * b[static_cast<size_t>(k * 8 + column)];
      }
      CHECK_EQ(o.d[lane][i], static_cast<Accumulator>(expected));
    }
  }
}

TEST(tensor_core_products) {
  for_each_schedule([] {
    check_mma<float>(multiply_f16, 16, [](int v, int e) {
      return static_cast<uint32_t>(simt::float_to_half(static_cast<float>(v))) << 16 * e;
    });
    check_mma<float>(multiply_bf16, 16, [](int v, int e) {
      return static_cast<uint32_t>(simt::float_to_bfloat16(static_cast<float>(v))) << 16 * e;
    });
    check_mma<int32_t>(multiply_s8, 32,
                       [](int v, int e) { return static_cast<uint32_t>(v & 0xff) << 8 * e; });
  });
}

__global__ void load_matrices(uint32_t* plain, uint32_t* transposed) {
  TGV_SHARED(uint16_t, cell, [32][8]);  // 16-byte rows: matrix m is rows 8m..8m+7
  for (int c = 0; c < 8; ++c) cell[threadIdx.x][c] = static_cast<uint16_t>(threadIdx.x * 8 + c);
  __syncwarp();
  uint32_t r[4];
  cuda::ldmatrix_x4<false>(r, cell[threadIdx.x]);
  std::memcpy(plain + threadIdx.x * 4, r, 16);
  cuda::ldmatrix_x4<true>(r, cell[threadIdx.x]);
  std::memcpy(transposed + threadIdx.x * 4, r, 16);
}

TEST(matrix_loads) {
  std::vector<uint32_t> plain(128), transposed(128);
  simt::launch(load_matrices, dim3(1), dim3(32), 0, false, plain.data(), transposed.data());
  for (uint32_t lane = 0; lane < 32; ++lane) {
    for (uint32_t m = 0; m < 4; ++m) {
      const uint32_t g = lane / 4, t = lane % 4, base = m * 64;
      CHECK_EQ(plain[lane * 4 + m], (base + g * 8 + 2 * t) | (base + g * 8 + 2 * t + 1) << 16);
      CHECK_EQ(transposed[lane * 4 + m], (base + 2 * t * 8 + g) | (base + (2 * t + 1) * 8 + g)
                                                                      << 16);
    }
  }
}

TEST(bit_tricks) {
  CHECK_EQ(cuda::lop3<0xEA>(0xF0F0u, 0xFF00u, 0x0001u), (0xF0F0u & 0xFF00u) | 1u);
  CHECK_EQ(cuda::lop3<0x96>(5u, 3u, 9u), 5u ^ 3u ^ 9u);
  CHECK_EQ(cuda::rotate_right_8(0x11223344u), 0x44112233u);
  CHECK_EQ(cuda::half2_subtract(0x5C3C5C04u, 0x5C005C00u), 0x4B803C00u);  // 271 - 256, 257 - 256
}

// --- rounding
TEST(pairs_are_rounded_low_first) {
  CHECK_EQ(cuda::round_to_half(70000.0f).bits, uint16_t{0x7c00});
  CHECK_EQ(cuda::round_to_e4m3x2(1.0f, -1000.0f), 0xfe38u);
}

// What GPUs without the instruction compute, against the rounding routine: every code, both sides
// of every boundary between codes, and what is not finite.
TEST(e4m3_in_integers) {
  const auto check = [](float x) {
    for (float value : {x, -x}) {
      CHECK_EQ(cuda::round_to_e4m3_in_integers(value), simt::encode(simt::kE4M3, value));
    }
  };
  for (uint32_t code = 0; code < 0x7e; ++code) {
    const float below = simt::decode(simt::kE4M3, code),
                above = simt::decode(simt::kE4M3, code + 1);
    const float middle = (below + above) / 2;
    check(below);
    check(middle);
    check(std::nextafter(middle, below));
    check(std::nextafter(middle, above));
  }
  for (float x : {448.0f, 463.9f, 464.0f, 465.0f, 1e30f, 1e-30f, INFINITY, NAN}) check(x);
}

TEST(packed_conversions) {
  CHECK_EQ(cuda::pick_bytes<0x7160>(0x33221100u, 0x77665544u), 0x77116600u);
  CHECK_EQ(cuda::bits_to_float(0xc0400000u), -3.0f);
  CHECK_EQ(cuda::floats_to_half2(1.0f, -2.0f), 0xc0003c00u);
  CHECK_EQ(cuda::floats_to_half2(1.0f + 0x1p-11f, 1.0f + 3 * 0x1p-11f), 0x3c023c00u);  // ties: even
  CHECK_EQ(cuda::floats_to_bfloat2(1.0f, -2.0f), 0xc0003f80u);
  CHECK_EQ(cuda::bfloat2_to_float2(0xc0003f80u).x, 1.0f);
  CHECK_EQ(cuda::bfloat2_to_float2(0xc0003f80u).y, -2.0f);
  CHECK_EQ(cuda::half2_multiply(0x3e00c000u, 0x3e003c00u), 0x4080c000u);  // 1.5 * 1.5, -2 * 1
  const uint32_t word = 0x12345678u;
  CHECK_EQ(cuda::load_once_4(&word), word);
}

// Every code in every place of a word, against the emulation's own decoder.
TEST(eight_bit_elements_become_halves_exactly) {
  for (unsigned code = 0; code < 256; ++code) {
    for (int place = 0; place < 4; ++place) {
      const uint32_t word = 0x01010101u * (code ^ 0x5au);
      const uint32_t with = (word & ~(0xffu << 8 * place)) | code << 8 * place;
      const uint2 levels = cuda::int8x4_to_half4(with), floats = cuda::e4m3x4_to_half4(with);
      const auto half_at = [&](uint2 pair) {
        const uint32_t two = place < 2 ? pair.x : pair.y;
        return simt::half_to_float(static_cast<uint16_t>(two >> 16 * (place % 2)));
      };
      CHECK_EQ(half_at(levels), static_cast<float>(static_cast<int8_t>(code)));
      const float expected = simt::decode(simt::kE4M3, code);
      if (std::isnan(expected)) {
        CHECK(std::isnan(half_at(floats)));
      } else {
        CHECK_EQ(half_at(floats), expected);
        CHECK_EQ(std::signbit(half_at(floats)), std::signbit(expected));
      }
    }
  }
}

TEST(element_kinds) {
  CHECK_EQ(cuda::half2_multiply(0x42004000u, 0xBC003800u), 0xC2003C00u);  // 3 * -1, 2 * 0.5
  CHECK_EQ(cuda::half2_multiply(0x3C013C01u, 0x3C013C01u), 0x3C023C02u);  // rounded to nearest
  uint16_t cell[2] = {};
  cuda::HalfElement::store(cell, 1, -1.5f);
  CHECK_EQ(cell[1], 0xBE00);
  CHECK_EQ(cuda::HalfElement::load(cell, 1), -1.5f);
  cuda::BFloat16Element::store(cell, 0, 1.0f + 1.0f / 256);  // a tie, to the even code
  CHECK_EQ(cell[0], 0x3F80);
  CHECK_EQ(cuda::BFloat16Element::load(cell, 0), 1.0f);
  float number = 0;
  cuda::FloatElement::store(&number, 0, 0.1f);
  CHECK_EQ(cuda::FloatElement::load(&number, 0), 0.1f);
}

// The last block of each round reads what all wrote before they counted themselves.
__global__ void last_one_adds(unsigned* counter, float* slots, float* out) {
  slots[blockIdx.x] = static_cast<float>(blockIdx.x + 1);
  if (cuda::add_acquire_release(counter, 1) + 1 < gridDim.x) return;
  *out = 0;
  for (unsigned b = 0; b < gridDim.x; ++b) *out += slots[b];
}

TEST(the_last_to_count_sees_what_the_others_wrote) {
  unsigned counter = 0;
  float slots[6] = {}, out = -1;
  simt::launch(last_one_adds, dim3(6), dim3(1), 0, true, &counter, slots, &out);
  CHECK_EQ(counter, 6u);
  CHECK_EQ(out, 21.0f);
}

__global__ void own_numbers(int* out) { out[threadIdx.x] = cuda::thread_read_anew(); }

TEST(a_thread_reads_its_number) {
  std::vector<int> out(64);
  simt::launch(own_numbers, dim3(1), dim3(64), 0, false, out.data());
  for (int i = 0; i < 64; ++i) CHECK_EQ(out[i], i);
}

}  // namespace
}  // namespace tgv::test

TEST_MAIN()
