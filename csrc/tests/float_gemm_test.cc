// kernels/cuda/float_gemm against double precision. Compiled for the emulation and, by nvcc, for a
// GPU.
#include <algorithm>
#include <cmath>
#include <random>

#include "kernels/cuda/launch.cuh"
#include "tests/check.h"
#include "tests/device_array.h"
#include "tests/gemm_check.h"
#include "tests/schedules.h"

namespace tgv::test {
namespace {

constexpr int64_t kSharedBytes = 101376;  // of sm_86 and sm_89, the least

struct Problem {
  int64_t m, n, k;
  bool bias = true, gelu = false;
};

struct Data {
  std::vector<float> w, x, bias;  // [n, k], [m, k], [n]
};

Data make_data(const Problem& problem, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const auto numbers = [&](int64_t count) {
    std::vector<float> values;
    for (int64_t i = 0; i < count; ++i) values.push_back(normal(random));
    return values;
  };
  Data d;
  d.w = numbers(problem.n * problem.k);
  d.x = numbers(problem.m * problem.k);
  d.bias = numbers(problem.n);
  return d;
}

std::vector<float> run(const Problem& problem, const Data& d, int blocks) {
  DeviceArray<float> weights(d.w), x(d.x), bias(d.bias);
  DeviceArray<float> y(static_cast<size_t>(problem.m * problem.n));
  cuda::FloatGemmParams p;
  p.m = problem.m;
  p.n = problem.n;
  p.k = problem.k;
  p.y = y.data();
  p.x = x.data();
  p.weights = weights.data();
  p.bias = problem.bias ? bias.data() : nullptr;
  p.gelu = problem.gelu;
  Workspace workspace(cuda::float_gemm_work(p, blocks));
  workspace.give_to(p);
  cuda::Launch launch;
  launch.blocks = blocks;
  launch.shared_bytes_per_block = kSharedBytes;
  cuda::launch_float_gemm(p, launch);
  CHECK(y.guards_intact());
  workspace.check_after();
  return y.download();
}

void check_against_double(const Problem& problem, const Data& d, const std::vector<float>& y) {
  for (int64_t token = 0; token < problem.m; ++token) {
    for (int64_t row = 0; row < problem.n; ++row) {
      double sum = problem.bias ? d.bias[row] : 0.0, magnitude = std::fabs(sum);
      for (int64_t k = 0; k < problem.k; ++k) {
        const double product = static_cast<double>(d.w[row * problem.k + k]) *
                               static_cast<double>(d.x[token * problem.k + k]);
        sum += product;
        magnitude += std::fabs(product);
      }
      // Chains: a segment's columns, the segments and the bias.
      Near expected = {sum, fp32_sum_bound(problem.k + cuda::kGemmMaxSegments, magnitude)};
      if (problem.gelu) expected = gelu_near(expected);
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
  for (bool bias : {false, true}) {
    for (bool gelu : {false, true}) {
      for (int64_t m : {3, 20}) check_problem({m, 70, 64, bias, gelu}, 1);
    }
  }
}

TEST(sizes_around_every_edge) {
  for (int64_t m : {1, 2, 15, 16, 17, 63, 64, 65, 130}) check_problem({m, 20, 64}, 3);
  for (int64_t n : {1, 15, 16, 17, 127, 128, 129, 257}) check_problem({9, n, 36}, 3);
  for (int64_t k : {1, 3, 4, 31, 32, 33, 36, 63, 64, 65, 255, 256, 257, 260}) {
    check_problem({11, 18, k}, 2);
  }
}

// 18 steps are three segments.
TEST(blocks_share_tiles) {
  for (int blocks : {1, 2, 3, 5, 9, 100}) {
    check_problem({70, 300, 18 * 32, true, true}, blocks);
    check_problem({5, 300, 18 * 32, true, true}, blocks);
  }
}

// The sums are plain fp32 in a known order: not one bit of freedom.
TEST(every_bit_is_given) {
  const Problem problem = {19, 130, 20 * 32 + 7};
  const Data d = make_data(problem, 8);
  const std::vector<float> y = run(problem, d, 4);
  for (int64_t token = 0; token < problem.m; ++token) {
    for (int64_t row = 0; row < problem.n; ++row) {
      float total = 0;
      for (int64_t first = 0; first < problem.k; first += 8 * 32) {
        float sum = 0;
        for (int64_t k = first; k < std::min(problem.k, first + 8 * 32); ++k) {
          sum = std::fma(d.w[row * problem.k + k], d.x[token * problem.k + k], sum);
        }
        total += sum;
      }
      CHECK_EQ(y[token * problem.n + row], total + d.bias[row]);
    }
  }
}

TEST(hostile_schedules) {
  for_each_schedule([] {
    check_problem({40, 140, 9 * 32}, 3);
    check_problem({4, 140, 10 * 32 - 3}, 3);
  });
}

TEST(a_row_does_not_depend_on_the_others_or_on_blocks) {
  const Problem many = {90, 140, 80 * 32};  // as many segments as there can be
  const Data data = make_data(many, 5);
  const std::vector<float> y = run(many, data, 1);
  for (int blocks : {2, 7, 13}) {
    const std::vector<float> again = run(many, data, blocks);
    CHECK(std::memcmp(again.data(), y.data(), y.size() * sizeof(float)) == 0);
  }
  for (int64_t token : {0, 89}) {
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
  for (int barrier = 0; barrier < 7; ++barrier) {
    CHECK(mutation_is_seen(barrier, false, [] { check_problem({9, 40, 7 * 32}, 1); }));
    CHECK(mutation_is_seen(barrier, false, [] { check_problem({66, 40, 7 * 32}, 1); }));
  }
  // Rows that cp.async cannot take are stored four steps ahead: from the fourth barrier on there is
  // nothing left to store, and earlier barriers have made all of it visible.
  for (int barrier = 0; barrier < 3; ++barrier) {
    CHECK(mutation_is_seen(barrier, false, [] { check_problem({9, 40, 7 * 32 - 1}, 1); }));
  }
}

TEST(schedules_see_a_short_wait_for_copies) {
  CHECK(mutation_is_seen(-1, true, [] { check_problem({9, 40, 224}, 1); }));
  CHECK(mutation_is_seen(-1, true, [] { check_problem({66, 40, 224}, 1); }));
}

TEST(why_not_says_what_is_wrong) {
  cuda::FloatGemmParams p;
  float numbers[4] = {};
  const auto why_not = [&p] { return cuda::float_gemm_why_not(p, kSharedBytes, 4); };
  p.m = 65;
  p.n = 100;
  CHECK_EQ(why_not(), std::string("M=65, N=100, K=0, expected all >= 1"));
  p.k = 500;
  p.x = p.y = numbers;
  CHECK_EQ(why_not(), std::string("weights is null"));
  p.weights = numbers;
  // two tiles of two segments in four blocks: both tiles can be shared
  CHECK_EQ(why_not(), std::string("the workspace has 0 bytes, 4 blocks need 131200"));
  p.k = 256;
  CHECK_EQ(why_not(), std::string());
  CHECK_EQ(cuda::float_gemm_bytes(p), 4 * (100 * 256 + 65 * 356));
  CHECK_THROWS(InvalidArgument, cuda::launch_float_gemm(p, {}),
               "float_gemm: a tile needs 98304 bytes of shared memory, a block has 49152");
  p.n = int64_t{1} << 40;
  CHECK_THROWS(InvalidArgument, why_not(), "too many");
}

}  // namespace
}  // namespace tgv::test

TEST_MAIN()
