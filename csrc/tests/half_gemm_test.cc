// kernels/cuda/half_gemm against double precision. Compiled for the emulation and, by nvcc, for a
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
  bool bfloat16;
  bool bias = true, gelu = false, y_is_element = false;

  uint16_t encode(float value) const {
    return bfloat16 ? simt::float_to_bfloat16(value) : simt::float_to_half(value);
  }
  double decode(uint16_t code) const {
    return bfloat16 ? simt::bfloat16_to_float(code) : simt::half_to_float(code);
  }
};

struct Data {
  std::vector<uint16_t> w, x, bias;  // [n, k], [m, k], [n]
  std::vector<float> scales;         // [n], or none

  double scale(int64_t row) const { return scales.empty() ? 1.0 : scales[row]; }
};

Data make_data(const Problem& problem, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const auto numbers = [&](int64_t count) {
    std::vector<uint16_t> codes;
    for (int64_t i = 0; i < count; ++i) codes.push_back(problem.encode(normal(random)));
    return codes;
  };
  Data d;
  d.w = numbers(problem.n * problem.k);
  d.x = numbers(problem.m * problem.k);
  d.bias = numbers(problem.n);
  return d;
}

// y [m, n], whatever its kind in memory.
std::vector<float> run(const Problem& problem, const Data& d, int blocks) {
  std::vector<uint32_t> packed(cuda::half_gemm_weight_words(problem.n, problem.k));
  cuda::half_gemm_pack_weights(packed.data(), d.w.data(), problem.n, problem.k);
  DeviceArray<uint32_t> weights(packed);
  DeviceArray<uint16_t> x(d.x), bias(d.bias);
  DeviceArray<float> scales(d.scales);
  const size_t count = static_cast<size_t>(problem.m * problem.n);
  DeviceArray<float> y(problem.y_is_element ? 0 : count);
  DeviceArray<uint16_t> y_elements(problem.y_is_element ? count : 0);

  cuda::HalfGemmParams p;
  p.m = problem.m;
  p.n = problem.n;
  p.k = problem.k;
  p.bfloat16 = problem.bfloat16;
  p.y = problem.y_is_element ? static_cast<void*>(y_elements.data()) : y.data();
  p.y_is_element = problem.y_is_element;
  p.x = x.data();
  p.weights = weights.data();
  p.row_scales = d.scales.empty() ? nullptr : scales.data();
  p.bias = problem.bias ? bias.data() : nullptr;
  p.gelu = problem.gelu;
  Workspace workspace(cuda::half_gemm_work(p, blocks));
  workspace.give_to(p);
  cuda::Launch launch;
  launch.blocks = blocks;
  launch.shared_bytes_per_block = kSharedBytes;
  cuda::launch_half_gemm(p, launch);
  CHECK(y.guards_intact() && y_elements.guards_intact());
  workspace.check_after();
  std::vector<float> values = y.download();
  for (uint16_t code : y_elements.download()) {
    values.push_back(static_cast<float>(problem.decode(code)));
  }
  return values;
}

void check_against_double(const Problem& problem, const Data& d, const std::vector<float>& y) {
  for (int64_t token = 0; token < problem.m; ++token) {
    for (int64_t row = 0; row < problem.n; ++row) {
      double sum = problem.bias ? problem.decode(d.bias[row]) : 0.0, magnitude = std::fabs(sum);
      for (int64_t k = 0; k < problem.k; ++k) {
        const double product = problem.decode(d.w[row * problem.k + k]) * d.scale(row) *
                               problem.decode(d.x[token * problem.k + k]);
        sum += product;
        magnitude += std::fabs(product);
      }
      // Chains: a segment's columns, the segments and the bias.
      Near expected = {sum, fp32_sum_bound(problem.k + cuda::kGemmMaxSegments, magnitude)};
      if (problem.gelu) expected = gelu_near(expected);
      if (problem.y_is_element) {
        expected = problem.bfloat16 ? rounded_near(expected, 7, std::ldexp(1.0, -133))
                                    : rounded_near(expected, 10, std::ldexp(1.0, -24));
      }
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

TEST(every_kind_tile_and_epilogue) {
  for (bool bfloat16 : {false, true}) {
    for (bool gelu : {false, true}) {
      for (bool y_is_element : {false, true}) {
        check_problem({10, 70, 64, bfloat16, gelu, gelu, y_is_element}, 1);
      }
    }
    check_problem({70, 70, 128, bfloat16}, 1);
  }
}

TEST(sizes_around_every_edge) {
  for (int64_t m : {1, 8, 31, 33, 63, 64, 65, 127, 128, 129, 130}) {
    check_problem({m, 20, 64, false}, 3);
  }
  for (int64_t n : {1, 15, 16, 17, 127, 128, 129, 257}) check_problem({9, n, 72, true}, 3);
  for (int64_t k : {1, 7, 8, 31, 32, 33, 63, 64, 65, 72, 127, 128, 129, 515, 520}) {
    check_problem({11, 18, k, false}, 2);
  }
}

TEST(blocks_share_tiles) {
  for (int blocks : {1, 2, 3, 5, 9, 100}) {
    check_problem({70, 200, 18 * 64, blocks % 2 == 0, true, true}, blocks);
  }
}

// Weights in bf16 with f16 activations: magnitudes from subnormal to nearly the largest.
TEST(bfloat16_weights_as_scaled_halves) {
  Problem problem = {11, 40, 200, false};
  Data d = make_data(problem, 9);
  std::vector<uint16_t> w = d.w;  // of bf16
  std::mt19937 random(4);
  for (int64_t row = 0; row < problem.n; ++row) {
    const int exponent = row == 0 ? -136 : row == 1 ? 100 : static_cast<int>(random() % 24) - 12;
    for (int64_t k = 0; k < problem.k; ++k) {
      const float value = static_cast<float>(static_cast<int>(random() % 511) - 255);
      w[row * problem.k + k] = simt::float_to_bfloat16(std::ldexp(value, exponent));
    }
  }
  std::fill_n(w.begin() + 3 * problem.k, problem.k, uint16_t{0x8000});  // a row of -0
  d.scales.resize(problem.n);
  CHECK(cuda::half_gemm_from_bfloat16(d.w.data(), d.scales.data(), w.data(), problem.n, problem.k));
  for (int64_t i = 0; i < problem.n * problem.k; ++i) {
    CHECK_EQ(simt::half_to_float(d.w[i]) * double{d.scales[i / problem.k]},
             double{simt::bfloat16_to_float(w[i])});
  }
  check_against_double(problem, d, run(problem, d, 3));
  problem.gelu = problem.y_is_element = true;
  d.scales.assign(problem.n, 0.01f);
  check_against_double(problem, d, run(problem, d, 2));
}

TEST(bfloat16_weights_far_below_their_rows_largest_are_rounded) {
  const float values[] = {1.0f, 0x1.02p-32f, 0x1.02p-34f, 0x1p-60f};
  uint16_t w[4], halves[4];
  for (int i = 0; i < 4; ++i) w[i] = simt::float_to_bfloat16(values[i]);
  float scale;
  CHECK(cuda::half_gemm_from_bfloat16(halves, &scale, w, 1, 4));
  CHECK_EQ(scale, 0x1p-15f);
  CHECK_EQ(simt::half_to_float(halves[1]) * scale, values[1]);
  for (int i = 2; i < 4; ++i) {
    CHECK(std::fabs(simt::half_to_float(halves[i]) * scale - values[i]) <= 0x1p-40);
  }
  for (uint16_t bad : {0x7f80, 0xff80, 0x7fc0}) {
    w[2] = bad;
    CHECK(!cuda::half_gemm_from_bfloat16(halves, &scale, w, 1, 4));
  }
}

TEST(hostile_schedules) {
  for_each_schedule([] {
    check_problem({40, 140, 9 * 64, false}, 3);
    check_problem({140, 30, 10 * 64 - 3, true}, 3);
  });
}

TEST(a_row_does_not_depend_on_the_others_or_on_blocks) {
  const Problem many = {150, 140, 17 * 64, false};
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
    CHECK(mutation_is_seen(barrier, false, [] { check_problem({9, 40, 384, false}, 1); }));
    CHECK(mutation_is_seen(barrier, false, [] { check_problem({66, 40, 384, true}, 1); }));
  }
}

TEST(schedules_see_a_short_wait_for_copies) {
  CHECK(mutation_is_seen(-1, true, [] { check_problem({9, 40, 384, false}, 1); }));
  CHECK(mutation_is_seen(-1, true, [] { check_problem({66, 40, 384, true}, 1); }));
}

TEST(why_not_says_what_is_wrong) {
  cuda::HalfGemmParams p;
  uint32_t words[8] __attribute__((aligned(16))) = {};
  const auto why_not = [&p] { return cuda::half_gemm_why_not(p, kSharedBytes, 4); };
  CHECK_EQ(why_not(), std::string("M=0, N=0, K=0, expected all >= 1"));
  p.m = 65;
  p.n = 100;
  p.k = 500;
  p.x = p.y = words;
  CHECK_EQ(why_not(), std::string("weights is null"));
  p.weights = words + 2;
  CHECK_EQ(why_not(), std::string("weights is not 16-byte aligned"));
  p.weights = words;
  CHECK_EQ(why_not(), std::string());  // one segment: no workspace
  CHECK_EQ(cuda::half_gemm_bytes(p), 112 * 512 * 2 + 65 * (500 * 2 + 100 * 4));
  CHECK_THROWS(InvalidArgument, cuda::launch_half_gemm(p, {}),
               "half_gemm: a tile needs 98304 bytes of shared memory, a block has 49152");
}

}  // namespace
}  // namespace tgv::test

TEST_MAIN()
