// kernels/cuda/int4_gemm against double precision. Compiled for the emulation and, by nvcc, for a
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
  int group;
  bool asymmetric, bias = true, gelu = false, half_y = false;
};

struct Data {
  std::vector<uint8_t> q;                    // [n, k]
  std::vector<Half> scales, zeros, x, bias;  // [n, groups], [n, groups], [m, k], [n]
  int64_t groups;
};

Data make_data(const Problem& problem, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Data d;
  d.groups = (problem.k + problem.group - 1) / problem.group;
  for (int64_t i = 0; i < problem.n * problem.k; ++i) d.q.push_back(random() & 15);
  for (int64_t i = 0; i < problem.n * d.groups; ++i) {
    d.scales.push_back(to_half((random() & 1 ? 1 : -1) * (0.002f + 0.0007f * (random() % 16))));
    d.zeros.push_back(to_half(static_cast<float>(problem.asymmetric ? random() % 16 : 8)));
  }
  for (int64_t i = 0; i < problem.m * problem.k; ++i) d.x.push_back(to_half(normal(random) + 0.3f));
  for (int64_t i = 0; i < problem.n; ++i) d.bias.push_back(to_half(normal(random)));
  return d;
}

// y [m, n], whatever its kind in memory.
std::vector<float> run(const Problem& problem, const Data& d, int blocks) {
  std::vector<uint32_t> weights(cuda::int4_gemv_weight_words(problem.n, problem.k, problem.group));
  std::vector<uint32_t> scales(cuda::int4_gemv_scale_words(problem.n, problem.k, problem.group));
  std::vector<uint32_t> zeros(scales.size());
  cuda::int4_gemv_pack_weights(weights.data(), d.q.data(), problem.n, problem.k, problem.group);
  cuda::int4_gemv_pack_groups(scales.data(), d.scales.data(), problem.n, problem.k, problem.group);
  cuda::int4_gemv_pack_groups(zeros.data(), d.zeros.data(), problem.n, problem.k, problem.group);
  DeviceArray<uint32_t> device_weights(weights), device_scales(scales), device_zeros(zeros);
  DeviceArray<Half> x(d.x), bias(d.bias);
  const size_t count = static_cast<size_t>(problem.m * problem.n);
  DeviceArray<float> y(problem.half_y ? 0 : count);
  DeviceArray<Half> y_half(problem.half_y ? count : 0);

  cuda::Int4GemmParams p;
  p.m = problem.m;
  p.n = problem.n;
  p.k = problem.k;
  p.group = problem.group;
  p.y = problem.half_y ? static_cast<void*>(y_half.data()) : y.data();
  p.y_is_element = problem.half_y;
  p.x = x.data();
  p.weights = device_weights.data();
  p.scales = device_scales.data();
  p.zeros = problem.asymmetric ? device_zeros.data() : nullptr;
  p.bias = problem.bias ? bias.data() : nullptr;
  p.gelu = problem.gelu;
  const cuda::GemmWork work = cuda::int4_gemm_work(p, blocks);
  Workspace workspace(work);
  workspace.give_to(p);
  cuda::Launch launch;
  launch.blocks = blocks;
  launch.shared_bytes_per_block = kSharedBytes;
  cuda::launch_int4_gemm(p, launch);
  CHECK(y.guards_intact() && y_half.guards_intact());
  workspace.check_after();
  std::vector<float> values = y.download();
  for (Half value : y_half.download()) values.push_back(static_cast<float>(from_half(value)));
  return values;
}

// What the tensor core is given: (q - zero) scale, rounded to f16 once.
std::vector<double> rounded_weights(const Problem& problem, const Data& d) {
  std::vector<double> weights;
  for (int64_t row = 0; row < problem.n; ++row) {
    for (int64_t k = 0; k < problem.k; ++k) {
      const int64_t g = row * d.groups + k / problem.group;
      const double exact =
          (d.q[row * problem.k + k] - from_half(d.zeros[g])) * from_half(d.scales[g]);
      weights.push_back(from_half(to_half(static_cast<float>(exact))));
    }
  }
  return weights;
}

void check_against_double(const Problem& problem, const Data& d, const std::vector<float>& y) {
  const std::vector<double> weights = rounded_weights(problem, d);
  for (int64_t token = 0; token < problem.m; ++token) {
    for (int64_t row = 0; row < problem.n; ++row) {
      double sum = problem.bias ? from_half(d.bias[row]) : 0.0, magnitude = std::fabs(sum);
      for (int64_t k = 0; k < problem.k; ++k) {
        const double product = weights[row * problem.k + k] * from_half(d.x[token * problem.k + k]);
        sum += product;
        magnitude += std::fabs(product);
      }
      // Chains: a segment's columns, the segments and the bias.
      Near expected = {sum, fp32_sum_bound(problem.k + cuda::kGemmMaxSegments, magnitude)};
      if (problem.gelu) expected = gelu_near(expected);
      if (problem.half_y) expected = rounded_near(expected, 10, std::ldexp(1.0, -24));
      check_near(y[token * problem.n + row], expected,
                 concat("y[", token, ",", row, "] (M=", problem.m, " N=", problem.n,
                        " K=", problem.k, " group ", problem.group, ")"));
    }
  }
}

void check_problem(const Problem& problem, int blocks) {
  const Data data =
      make_data(problem, static_cast<unsigned>(problem.n * 131 + problem.k + problem.m));
  check_against_double(problem, data, run(problem, data, blocks));
}

TEST(every_group_tile_and_symmetry) {
  for (int group : {32, 64, 128}) {
    for (bool asymmetric : {false, true}) {
      check_problem({9, 128, 256, group, asymmetric}, 2);
      check_problem({65, 128, 256, group, asymmetric}, 2);
    }
  }
}

TEST(every_epilogue) {
  for (bool bias : {false, true}) {
    for (bool gelu : {false, true}) {
      for (bool half_y : {false, true})
        check_problem({10, 70, 64, 32, true, bias, gelu, half_y}, 1);
    }
  }
}

TEST(sizes_around_every_edge) {
  for (int64_t m : {1, 8, 31, 33, 63, 64, 65, 127, 128, 129, 130}) {
    check_problem({m, 20, 64, 32, true}, 3);
  }
  for (int64_t n : {1, 15, 16, 17, 127, 128, 129, 257}) check_problem({9, n, 128, 64, true}, 3);
  for (int64_t k : {1, 7, 8, 31, 32, 33, 63, 64, 65, 72, 127, 128, 129, 515, 520}) {
    for (int group : {32, 64, 128}) check_problem({11, 18, k, group, true}, 2);
  }
}

// 18 steps are three segments. Tiles shared by two and by three blocks, inside one, with fewer and
// with more tiles than blocks.
TEST(blocks_share_tiles) {
  for (int blocks : {1, 2, 3, 4, 5, 7, 9, 100}) {
    check_problem({70, 300, 18 * 64, 64, true, true, true}, blocks);
  }
}

TEST(hostile_schedules) {
  for_each_schedule([] {
    check_problem({40, 140, 9 * 64, 32, true}, 3);
    check_problem({140, 30, 10 * 64 - 3, 128, false}, 3);
  });
}

TEST(a_row_does_not_depend_on_the_others_or_on_blocks) {
  const Problem many = {150, 140, 17 * 64, 64, true};
  const Data data = make_data(many, 5);
  const std::vector<float> y = run(many, data, 1);
  for (int blocks : {2, 3, 5, 8}) {
    const std::vector<float> again = run(many, data, blocks);
    CHECK(std::memcmp(again.data(), y.data(), y.size() * sizeof(float)) == 0);
  }
  for (int64_t token : {0, 77, 149}) {
    Problem one = many;
    one.m = 1;
    Data row = data;
    row.x.assign(data.x.begin() + token * many.k, data.x.begin() + (token + 1) * many.k);
    const std::vector<float> alone = run(one, row, 3);
    CHECK(std::memcmp(alone.data(), y.data() + token * many.n, sizeof(float) * many.n) == 0);
  }
}

TEST(infinities_and_nans_stay_in_their_row) {
  const Problem problem = {20, 40, 128, 32, true};
  Data data = make_data(problem, 6);
  const std::vector<float> before = run(problem, data, 1);
  data.x[3 * problem.k + 5] = Half{0x7e00};
  data.x[9 * problem.k] = Half{0x7c00};
  const std::vector<float> y = run(problem, data, 1);
  for (int64_t token = 0; token < problem.m; ++token) {
    for (int64_t row = 0; row < problem.n; ++row) {
      const int64_t i = token * problem.n + row;
      if (token == 3) {
        CHECK(std::isnan(y[i]));
      } else if (token != 9) {
        CHECK_EQ(y[i], before[i]);
      }
    }
  }
}

// One block, one barrier a step: each tells that the step's bytes are there, and from the second on
// that the stage read a step ago is free.
TEST(schedules_see_every_missing_barrier) {
  for (int barrier = 0; barrier < 9; ++barrier) {
    CHECK(mutation_is_seen(barrier, false, [] { check_problem({9, 40, 9 * 64, 64, true}, 1); }));
  }
  for (int barrier : {0, 3, 5}) {  // four stages of 128 tokens; rows that cp.async cannot take
    CHECK(mutation_is_seen(barrier, false, [] { check_problem({66, 40, 6 * 64, 64, true}, 1); }));
    CHECK(
        mutation_is_seen(barrier, false, [] { check_problem({9, 40, 6 * 64 - 1, 64, true}, 1); }));
  }
}

TEST(schedules_see_a_short_wait_for_copies) {
  CHECK(mutation_is_seen(-1, true, [] { check_problem({9, 40, 576, 64, true}, 1); }));
  CHECK(mutation_is_seen(-1, true, [] { check_problem({66, 40, 384, 64, true}, 1); }));
}

TEST(why_not_says_what_is_wrong) {
  cuda::Int4GemmParams p;
  uint32_t words[8] __attribute__((aligned(16))) = {};
  const auto why_not = [&p](int64_t blocks) {
    return cuda::int4_gemm_why_not(p, kSharedBytes, blocks);
  };
  CHECK_EQ(why_not(1), std::string("M=0, N=0, K=0, expected all >= 1"));
  p.m = 9;
  p.n = 256;
  p.k = 2560;
  CHECK_EQ(why_not(1), std::string("y or x is null"));
  p.x = p.y = words;
  CHECK_EQ(why_not(1), std::string("group is 0, expected 32, 64 or 128"));
  p.group = 64;
  CHECK_EQ(why_not(1), std::string("weights or scales is null"));
  p.weights = words;
  p.scales = words + 1;
  CHECK_EQ(why_not(1), std::string("weights, scales or zeros is not 16-byte aligned"));
  p.scales = words;
  CHECK_EQ(why_not(1), std::string());
  // one tile of five segments can be shared by two blocks
  CHECK_EQ(cuda::int4_gemm_workspace_bytes(p, 2), 128 + 5 * 128 * 64 * 4);
  CHECK_EQ(why_not(2), std::string("the workspace has 0 bytes, 2 blocks need 163968"));
  p.workspace = words + 1;
  p.workspace_bytes = 163968;
  CHECK_EQ(why_not(2), std::string("workspace is not 16-byte aligned"));
  CHECK_EQ(cuda::int4_gemm_why_not(p, 49152, 2),
           std::string("a tile needs 93184 bytes of shared memory, a block has 49152"));
  CHECK_EQ(cuda::int4_gemm_bytes(p), 256 * 2560 / 2 + 256 * 40 * 2 + 9 * (2560 * 2 + 256 * 4));
  CHECK_THROWS(InvalidArgument, cuda::launch_int4_gemm(p, {}), "int4_gemm: a tile needs");
}

}  // namespace
}  // namespace tgv::test

TEST_MAIN()
