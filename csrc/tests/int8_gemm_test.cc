// kernels/cuda/int8_gemm against double precision. Compiled for the emulation and, by nvcc, for a
// GPU.
#include <cmath>
#include <random>

#include "kernels/cuda/launch.cuh"
#include "tests/check.h"
#include "tests/device_array.h"
#include "tests/gemm_check.h"
#include "tests/half.h"
#include "tests/schedules.h"

namespace tgv::test {
namespace {

constexpr int64_t kSharedBytes = 101376;  // of sm_86 and sm_89, the least

struct Problem {
  int64_t m, n, k;
  bool bias = true, gelu = false, half_y = false;
};

struct Data {
  std::vector<int8_t> q;      // [n, k]
  std::vector<float> scales;  // [n]
  std::vector<Half> x, bias;  // [m, k], [n]
};

Data make_data(const Problem& problem, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Data d;
  for (int64_t i = 0; i < problem.n * problem.k; ++i) {
    d.q.push_back(
        static_cast<int8_t>(random() % 256));  // -128 too, which no quantiser of ours gives
  }
  for (int64_t i = 0; i < problem.n; ++i) {
    d.scales.push_back((random() & 1 ? 1 : -1) * (0.002f + 0.0007f * (random() % 16)));
    d.bias.push_back(to_half(normal(random)));
  }
  for (int64_t i = 0; i < problem.m * problem.k; ++i) d.x.push_back(to_half(normal(random) + 0.3f));
  return d;
}

// y [m, n], whatever its kind in memory.
std::vector<float> run(const Problem& problem, const Data& d, int blocks) {
  std::vector<uint32_t> packed(cuda::int8_gemm_weight_words(problem.n, problem.k));
  cuda::int8_gemm_pack_weights(packed.data(), d.q.data(), problem.n, problem.k);
  DeviceArray<uint32_t> weights(packed);
  DeviceArray<float> scales(d.scales);
  DeviceArray<Half> x(d.x), bias(d.bias);
  const size_t count = static_cast<size_t>(problem.m * problem.n);
  DeviceArray<float> y(problem.half_y ? 0 : count);
  DeviceArray<Half> y_half(problem.half_y ? count : 0);

  cuda::Int8GemmParams p;
  p.m = problem.m;
  p.n = problem.n;
  p.k = problem.k;
  p.y = problem.half_y ? static_cast<void*>(y_half.data()) : y.data();
  p.y_is_element = problem.half_y;
  p.x = x.data();
  p.weights = weights.data();
  p.row_scales = scales.data();
  p.bias = problem.bias ? bias.data() : nullptr;
  p.gelu = problem.gelu;
  Workspace workspace(cuda::int8_gemm_work(p, blocks));
  workspace.give_to(p);
  cuda::Launch launch;
  launch.blocks = blocks;
  launch.shared_bytes_per_block = kSharedBytes;
  cuda::launch_int8_gemm(p, launch);
  CHECK(y.guards_intact() && y_half.guards_intact());
  workspace.check_after();
  std::vector<float> values = y.download();
  for (Half code : y_half.download()) values.push_back(static_cast<float>(from_half(code)));
  return values;
}

void check_against_double(const Problem& problem, const Data& d, const std::vector<float>& y) {
  for (int64_t token = 0; token < problem.m; ++token) {
    for (int64_t row = 0; row < problem.n; ++row) {
      const double bias = problem.bias ? from_half(d.bias[row]) : 0.0;
      double sum = 0, magnitude = 0;
      for (int64_t k = 0; k < problem.k; ++k) {
        const double product = d.q[row * problem.k + k] * from_half(d.x[token * problem.k + k]);
        sum += product;
        magnitude += std::fabs(product);
      }
      sum = sum * d.scales[row] + bias;
      magnitude = magnitude * std::fabs(d.scales[row]) + std::fabs(bias);
      // Chains: a segment's columns, the segments, and the one rounding of scale and bias.
      Near expected = {sum, fp32_sum_bound(problem.k + cuda::kGemmMaxSegments, magnitude)};
      if (problem.gelu) expected = gelu_near(expected);
      if (problem.half_y) expected = rounded_near(expected, 10, std::ldexp(1.0, -24));
      check_near(y[token * problem.n + row], expected,
                 concat("y[", token, ",", row, "] (M=", problem.m, " N=", problem.n,
                        " K=", problem.k, ")"));
    }
  }
}

void check_problem(const Problem& problem, int blocks) {
  const Data data =
      make_data(problem, static_cast<unsigned>(problem.n * 131 + problem.k + problem.m));
  check_against_double(problem, data, run(problem, data, blocks));
}

TEST(every_tile_and_epilogue) {
  for (bool gelu : {false, true}) {
    for (bool half_y : {false, true}) check_problem({10, 70, 64, gelu, gelu, half_y}, 1);
  }
  check_problem({70, 70, 128}, 1);
}

// A product with the unit matrix gives W back: no rounding hides a level in another's place.
TEST(every_level_is_exact) {
  Problem problem = {64, 32, 64, false};
  Data d = make_data(problem, 1);
  d.scales.assign(32, 1.0f);
  for (size_t i = 0; i < d.q.size(); ++i) d.q[i] = static_cast<int8_t>(i * 37);
  for (int64_t m = 0; m < 64; ++m) {
    for (int64_t k = 0; k < 64; ++k) d.x[m * 64 + k] = to_half(m == k ? 1.0f : 0.0f);
  }
  const std::vector<float> y = run(problem, d, 1);
  for (int64_t m = 0; m < 64; ++m) {
    for (int64_t n = 0; n < 32; ++n) CHECK_EQ(y[m * 32 + n], static_cast<float>(d.q[n * 64 + m]));
  }
}

TEST(sizes_around_every_edge) {
  for (int64_t m : {1, 8, 31, 33, 63, 64, 65, 127, 128, 129, 130}) check_problem({m, 20, 64}, 3);
  for (int64_t n : {1, 15, 16, 17, 127, 128, 129, 257}) check_problem({9, n, 72}, 3);
  for (int64_t k : {1, 7, 8, 31, 32, 33, 63, 64, 65, 72, 127, 128, 129, 515, 520}) {
    check_problem({11, 18, k}, 2);
  }
}

TEST(blocks_share_tiles) {
  for (int blocks : {1, 2, 3, 5, 9, 100}) check_problem({70, 200, 18 * 64, true, true}, blocks);
}

TEST(hostile_schedules) {
  for_each_schedule([] {
    check_problem({40, 140, 9 * 64}, 3);
    check_problem({140, 30, 10 * 64 - 3}, 3);
  });
}

TEST(a_row_does_not_depend_on_the_others_or_on_blocks) {
  const Problem many = {150, 140, 17 * 64};
  const Data data = make_data(many, 5);
  const std::vector<float> y = run(many, data, 1);
  for (int blocks : {2, 5, 8}) {
    const std::vector<float> again = run(many, data, blocks);
    CHECK(std::memcmp(again.data(), y.data(), y.size() * sizeof(float)) == 0);
  }
  for (int64_t token : {0, 149}) {
    Problem one = many;
    one.m = 1;
    Data row = data;
    row.x.assign(data.x.begin() + token * many.k, data.x.begin() + (token + 1) * many.k);
    const std::vector<float> alone = run(one, row, 3);
    CHECK(std::memcmp(alone.data(), y.data() + token * many.n, sizeof(float) * many.n) == 0);
  }
}

// One block, one barrier a step: each tells that the step's bytes are there, and from the second on
// that the stage read a step ago is free.
TEST(schedules_see_every_missing_barrier) {
  for (int barrier = 0; barrier < 6; ++barrier) {
    CHECK(mutation_is_seen(barrier, false, [] { check_problem({9, 40, 384}, 1); }));
    CHECK(mutation_is_seen(barrier, false, [] { check_problem({66, 40, 384}, 1); }));
  }
}

TEST(schedules_see_a_short_wait_for_copies) {
  CHECK(mutation_is_seen(-1, true, [] { check_problem({9, 40, 384}, 1); }));
  CHECK(mutation_is_seen(-1, true, [] { check_problem({66, 40, 384}, 1); }));
}

TEST(why_not_says_what_is_wrong) {
  cuda::Int8GemmParams p;
  uint32_t words[8] __attribute__((aligned(16))) = {};
  const auto why_not = [&p] { return cuda::int8_gemm_why_not(p, kSharedBytes, 4); };
  CHECK_EQ(why_not(), std::string("M=0, N=0, K=0, expected all >= 1"));
  p.m = 65;
  p.n = 100;
  p.k = 500;
  p.x = p.y = words;
  CHECK_EQ(why_not(), std::string("weights or row_scales is null"));
  p.weights = words + 2;
  const float scale = 1;
  p.row_scales = &scale;
  CHECK_EQ(why_not(), std::string("weights is not 16-byte aligned"));
  p.weights = words;
  CHECK_EQ(why_not(), std::string());  // one segment: no workspace
  CHECK_EQ(cuda::int8_gemm_bytes(p), 112 * 512 + 100 * 4 + 65 * (500 * 2 + 100 * 4));
  CHECK_THROWS(InvalidArgument, cuda::launch_int8_gemm(p, {}),
               "int8_gemm: a tile needs 98304 bytes of shared memory, a block has 49152");
}

}  // namespace
}  // namespace tgv::test

TEST_MAIN()
