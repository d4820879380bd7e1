// kernels/cuda/int4_gemv against double precision. Compiled for the emulation and, by nvcc, for a
// GPU.
#include <cmath>
#include <limits>
#include <random>

#include "kernels/cuda/launch.cuh"
#include "tests/check.h"
#include "tests/device_array.h"
#include "tests/gemm_check.h"
#include "tests/half.h"
#include "tests/schedules.h"
#include "tests/tolerance.h"

namespace tgv::test {
namespace {

struct Problem {
  int64_t n, k;
  int batch, group;
  bool asymmetric, bias, gelu = false, half_y = false;
};

struct Data {
  std::vector<uint8_t> q;                    // [n, k]
  std::vector<Half> scales, zeros, x, bias;  // [n, groups], [n, groups], [batch, k], [n]
  int64_t groups;
};

Data make_data(const Problem& problem, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Data d;
  d.groups = (problem.k + problem.group - 1) / problem.group;
  for (int64_t i = 0; i < problem.n * problem.k; ++i) d.q.push_back(random() & 15);
  for (int64_t i = 0; i < problem.n * d.groups; ++i) {
    d.scales.push_back(to_half((random() & 1 ? 1 : -1) * (0.002f + 0.001f * (random() % 16))));
    d.zeros.push_back(to_half(static_cast<float>(problem.asymmetric ? random() % 16 : 8)));
  }
  for (int64_t i = 0; i < problem.batch * problem.k; ++i)
    d.x.push_back(to_half(normal(random) + 0.3f));
  for (int64_t i = 0; i < problem.n; ++i) d.bias.push_back(to_half(normal(random)));
  return d;
}

std::vector<float> run(const Problem& problem, const Data& d, int blocks) {
  std::vector<uint32_t> weights(cuda::int4_gemv_weight_words(problem.n, problem.k, problem.group));
  std::vector<uint32_t> scales(cuda::int4_gemv_scale_words(problem.n, problem.k, problem.group));
  std::vector<uint32_t> zeros(scales.size());
  cuda::int4_gemv_pack_weights(weights.data(), d.q.data(), problem.n, problem.k, problem.group);
  cuda::int4_gemv_pack_groups(scales.data(), d.scales.data(), problem.n, problem.k, problem.group);
  cuda::int4_gemv_pack_groups(zeros.data(), d.zeros.data(), problem.n, problem.k, problem.group);
  DeviceArray<uint32_t> device_weights(weights), device_scales(scales), device_zeros(zeros);
  DeviceArray<Half> x(d.x), bias(d.bias);
  const size_t count = static_cast<size_t>(problem.batch * problem.n);
  DeviceArray<float> y(problem.half_y ? 0 : count);
  DeviceArray<Half> y_half(problem.half_y ? count : 0);

  cuda::Int4GemvParams p;
  p.n = problem.n;
  p.k = problem.k;
  p.batch = problem.batch;
  p.group = problem.group;
  p.y = problem.half_y ? static_cast<void*>(y_half.data()) : y.data();
  p.y_is_half = problem.half_y;
  p.gelu = problem.gelu;
  p.x = x.data();
  p.weights = device_weights.data();
  p.scales = device_scales.data();
  p.zeros = problem.asymmetric ? device_zeros.data() : nullptr;
  p.bias = problem.bias ? bias.data() : nullptr;
  cuda::Launch launch;
  launch.blocks = blocks;
  cuda::launch_int4_gemv(p, launch);
  CHECK(y.guards_intact() && y_half.guards_intact());
  std::vector<float> values = y.download();
  for (Half value : y_half.download()) values.push_back(static_cast<float>(from_half(value)));
  return values;
}

void check_against_double(const Problem& problem, const Data& d, const std::vector<float>& y) {
  for (int b = 0; b < problem.batch; ++b) {
    for (int64_t row = 0; row < problem.n; ++row) {
      double sum = problem.bias ? from_half(d.bias[row]) : 0.0, magnitude = std::fabs(sum);
      for (int64_t k = 0; k < problem.k; ++k) {
        const int64_t g = row * d.groups + k / problem.group;
        const double s = from_half(d.scales[g]), z = from_half(d.zeros[g]);
        const double x = from_half(d.x[b * problem.k + k]);
        const double q = d.q[row * problem.k + k];
        sum += (q - z) * s * x;
        // what the kernel adds up: (16 + q) x and, once per group, (16 + z) S
        magnitude += ((16 + q) + (16 + z)) * std::fabs(s * x);
      }
      // Chains: a group's columns on the tensor core, the group's sum of x, the groups, the warps
      // and the bias.
      Near expected = {sum, fp32_sum_bound(problem.group + d.groups + 8.0, magnitude)};
      if (problem.gelu) expected = gelu_near(expected);
      if (problem.half_y) expected = rounded_near(expected, 10, std::ldexp(1.0, -24));
      check_near(y[b * problem.n + row], expected,
                 concat("y[", b, ",", row, "] (N=", problem.n, " K=", problem.k, " batch ",
                        problem.batch, " group ", problem.group, ")"));
    }
  }
}

void check_problem(const Problem& problem, int blocks) {
  const Data data =
      make_data(problem, static_cast<unsigned>(problem.n * 131 + problem.k + problem.batch));
  check_against_double(problem, data, run(problem, data, blocks));
}

TEST(every_group_batch_and_symmetry) {
  for (int group : {32, 64, 128}) {
    for (int batch = 1; batch <= 8; ++batch) {
      for (bool asymmetric : {false, true})
        check_problem({32, 256, batch, group, asymmetric, true}, 2);
    }
  }
}

TEST(every_epilogue) {
  for (int batch : {1, 5}) {
    for (bool gelu : {false, true}) {
      for (bool half_y : {false, true})
        check_problem({40, 128, batch, 32, true, true, gelu, half_y}, 2);
    }
  }
}

TEST(sizes_around_every_edge) {
  for (int64_t n : {1, 15, 16, 17, 33}) check_problem({n, 128, 2, 64, true, true}, 2);
  for (int64_t k : {1, 7, 8, 31, 32, 33, 63, 64, 65, 127, 128, 129, 515}) {
    for (int group : {32, 64, 128}) check_problem({16, k, k % 2 ? 1 : 3, group, true, false}, 1);
  }
}

TEST(all_warps_have_work) { check_problem({48, 2560, 1, 64, true, true}, 2); }

TEST(hostile_schedules) {
  for_each_schedule([] {
    check_problem({48, 640, 1, 64, true, true}, 2);
    check_problem({32, 384, 5, 128, true, true}, 1);
  });
}

TEST(a_row_does_not_depend_on_batch_or_blocks) {
  const Problem eight = {33, 320, 8, 32, true, true};
  const Data data = make_data(eight, 5);
  const std::vector<float> y = run(eight, data, 3);
  for (int b : {0, 3, 7}) {
    Problem one = eight;
    one.batch = 1;
    Data row = data;
    row.x.assign(data.x.begin() + b * eight.k, data.x.begin() + (b + 1) * eight.k);
    const std::vector<float> alone = run(one, row, 1);
    CHECK(std::memcmp(alone.data(), y.data() + b * eight.n, sizeof(float) * eight.n) == 0);
  }
}

// Barriers in order: sums cleared, x staged, partials written, partials read (batch > 1); the last
// one matters only when a block takes a second row tile.
TEST(schedules_see_every_missing_barrier) {
  for (int barrier = 0; barrier < 4; ++barrier) {
    CHECK(mutation_is_seen(barrier, false, [] { check_problem({64, 640, 3, 32, true, true}, 1); }));
  }
}

TEST(why_not_says_what_is_wrong) {
  cuda::Int4GemvParams p;
  uint32_t words[8] __attribute__((aligned(16))) = {};
  float y = 0;
  Half x = {0};
  p.n = 16;
  p.k = 64;
  p.batch = 1;
  p.group = 32;
  p.y = &y;
  p.x = &x;
  p.weights = words;
  p.scales = words;
  CHECK_EQ(cuda::int4_gemv_why_not(p, 49152), std::string());
  p.batch = 9;
  CHECK_EQ(cuda::int4_gemv_why_not(p, 49152), std::string("batch is 9, expected 1..8"));
  p.batch = 8;
  p.k = 10240;
  CHECK_EQ(
      cuda::int4_gemv_why_not(p, 101376),
      std::string("K=10240 at batch 8 needs 178688 bytes of shared memory, a block has 101376"));
  p.group = 48;
  CHECK_EQ(cuda::int4_gemv_why_not(p, 101376), std::string("group is 48, expected 32, 64 or 128"));
  p.group = 32;
  p.weights = words + 1;
  CHECK_EQ(cuda::int4_gemv_why_not(p, 1 << 20), std::string("weights is not 16-byte aligned"));
  CHECK_THROWS(InvalidArgument, cuda::launch_int4_gemv(p, {}), "int4_gemv: weights is not");
}

}  // namespace
}  // namespace tgv::test

TEST_MAIN()
