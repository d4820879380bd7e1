// kernels/cuda/norm against double precision. Compiled for the emulation and, by nvcc, for a GPU.
#include <cmath>
#include <limits>
#include <random>

#include "kernels/cuda/launch.cuh"
#include "tests/check.h"
#include "tests/device_array.h"
#include "tests/half.h"
#include "tests/schedules.h"
#include "tests/tolerance.h"

namespace tgv::test {
namespace {

using cuda::NormKind;

constexpr double kHalfUnit = 1.0 / (1 << 11);           // of a normal half
constexpr double kHalfSubnormalUnit = 1.0 / (1 << 25);  // half of the step below 2^-14

struct Problem {
  int64_t rows, width;
  NormKind kind;
  bool branches, rms, in_place;
  float offset = 0;  // added to the residual: a mean that would cancel
  float size = 1;    // of the residual's spread
};

struct Data {
  std::vector<float> residual, attention, mlp, rms_weight, weight, bias;
};

struct Result {
  std::vector<Half> y;
  std::vector<float> sum;
};

constexpr float kEps = 1e-5f, kRmsEps = 1e-6f;

std::vector<float> normals(int64_t count, float middle, float size, std::mt19937& random) {
  std::normal_distribution<float> normal(middle, size);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

Data make_data(const Problem& p, unsigned seed) {
  std::mt19937 random(seed);
  const int64_t count = p.rows * p.width;
  return {normals(count, p.offset, p.size, random), normals(count, 0.1f, 3, random),
          normals(count, 0, p.size, random),        normals(p.width, 1, 0.3f, random),
          normals(p.width, 1, 0.3f, random),        normals(p.width, 0, 0.5f, random)};
}

Result run(const Problem& problem, const Data& d) {
  DeviceArray<float> residual(d.residual), attention(d.attention), mlp(d.mlp);
  DeviceArray<float> rms_weight(d.rms_weight), weight(d.weight), bias(d.bias);
  DeviceArray<float> sum(d.residual.size());
  DeviceArray<Half> y(d.residual.size());
  cuda::NormParams p;
  p.rows = problem.rows;
  p.width = problem.width;
  p.kind = problem.kind;
  p.eps = kEps;
  p.y = y.data();
  p.sum = problem.in_place ? residual.data() : sum.data();
  p.residual = residual.data();
  p.weight = weight.data();
  p.bias = problem.kind == NormKind::kLayer ? bias.data() : nullptr;
  if (problem.branches) {
    p.attention = attention.data();
    p.mlp = mlp.data();
  }
  if (problem.rms) {
    p.rms_weight = rms_weight.data();
    p.rms_eps = kRmsEps;
  }
  cuda::launch_norm(p, {});
  CHECK(y.guards_intact() && sum.guards_intact() && residual.guards_intact());
  return {y.download(), problem.in_place ? residual.download() : sum.download()};
}

// The longest chain of additions behind a sum over a row: a thread's vectors, the tree, the warps.
constexpr double kChain = 4 * 4 + 5 + 16;

[[noreturn]] void wrong(const Problem& p, const char* name, int64_t row, int64_t i, double got,
                        double expected, double bound) {
  fail(__FILE__, __LINE__,
       concat(name, "[", row, ",", i, "] is ", got, ", expected ", expected, " within ", bound,
              " (T=", p.rows, " C=", p.width, " rms=", p.rms, " branches=", p.branches, ")"));
}

void check_sum(const Problem& p, const Data& d, const Result& result, int64_t row) {
  const size_t at = static_cast<size_t>(row * p.width);
  double squares = 0;
  for (int64_t i = 0; i < p.width; ++i) {
    squares += static_cast<double>(d.attention[at + i]) * d.attention[at + i];
  }
  const double scale = p.rms ? 1 / std::sqrt(squares / static_cast<double>(p.width) + kRmsEps) : 1;
  // A relative error of the squares halves in the root; the root, its inverse, two products.
  const double relative = p.rms ? fp32_sum_bound(kChain, 0.5) + 6 * kFloatUnit : 0;
  for (int64_t i = 0; i < p.width; ++i) {
    const double weight = p.rms ? d.rms_weight[i] : 1;
    const double branch = p.branches ? d.attention[at + i] * scale * weight : 0;
    const double both = branch + (p.branches ? d.mlp[at + i] : 0);
    const double expected = d.residual[at + i] + both;
    const double bound = p.branches ? relative * std::fabs(branch) +
                                          2 * kFloatUnit * (std::fabs(both) + std::fabs(expected))
                                    : 0;
    const double got = result.sum[at + i];
    if (!(std::fabs(got - expected) <= bound)) wrong(p, "sum", row, i, got, expected, bound);
  }
}

// Of the sum as the kernel wrote it, which is exactly what it normalised.
void check_y(const Problem& p, const Data& d, const Result& result, int64_t row) {
  const float* x = result.sum.data() + row * p.width;
  const double width = static_cast<double>(p.width);
  const bool layer = p.kind == NormKind::kLayer;
  double mean = 0, magnitude = 0, squares = 0;
  for (int64_t i = 0; i < p.width; ++i) {
    mean += layer ? x[i] / width : 0;
    magnitude += std::fabs(x[i]);
  }
  for (int64_t i = 0; i < p.width; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const double mean_bound =
      layer ? fp32_sum_bound(kChain, magnitude / width) + 2 * kFloatUnit * std::fabs(mean) : 0;
  // About a mean that is off by e, the squares grow by C e^2.
  const double squares_bound =
      2 * width * mean_bound * mean_bound + fp32_sum_bound(kChain, squares);
  const double variance = squares / width + kEps;
  const double scale = 1 / std::sqrt(variance);
  const double relative = squares_bound / width / variance / 2 + 6 * kFloatUnit;
  for (int64_t i = 0; i < p.width; ++i) {
    const double w = d.weight[i];
    const double expected = (x[i] - mean) * scale * w + (layer ? d.bias[i] : 0);
    const double bound = std::fabs(scale * w) * mean_bound * (1 + relative) +
                         std::fabs((x[i] - mean) * scale * w) * relative +
                         std::fabs(expected) * (2 * kFloatUnit + kHalfUnit * (1 + 1e-3)) +
                         kHalfSubnormalUnit;
    const double got = from_half(result.y[static_cast<size_t>(row * p.width + i)]);
    if (!(std::fabs(got - expected) <= bound)) wrong(p, "y", row, i, got, expected, bound);
  }
}

void check_problem(const Problem& p) {
  const Data d = make_data(p, static_cast<unsigned>(p.width * 31 + p.rows));
  const Result result = run(p, d);
  for (int64_t row = 0; row < p.rows; ++row) {
    check_sum(p, d, result, row);
    check_y(p, d, result, row);
  }
}

TEST(widths_around_every_edge) {
  for (int64_t width : {4, 8, 60, 128, 132, 1020, 1024, 1028, 2048, 2560, 3072, 3076, 8188, 8192}) {
    check_problem({2, width, NormKind::kLayer, true, true, false});
    check_problem({1, width, NormKind::kRms, true, false, true});
  }
}

TEST(every_choice) {
  for (NormKind kind : {NormKind::kLayer, NormKind::kRms}) {
    for (bool in_place : {false, true}) {
      check_problem({3, 260, kind, false, false, in_place});
      check_problem({3, 260, kind, true, false, in_place});
      check_problem({3, 260, kind, true, true, in_place});
    }
  }
}

TEST(many_rows) { check_problem({37, 2560, NormKind::kLayer, true, true, true}); }

TEST(a_large_mean_does_not_cancel) {
  check_problem({2, 2560, NormKind::kLayer, false, false, false, 1000.0f, 1.0f});
}

TEST(eps_counts_in_a_row_that_is_almost_constant) {
  check_problem({2, 2560, NormKind::kLayer, false, false, false, 0.0f, 1e-3f});
  check_problem({2, 2560, NormKind::kRms, false, false, false, 0.0f, 1e-3f});
  Problem zeros = {1, 64, NormKind::kRms, true, true, false};
  Data d = make_data(zeros, 3);
  std::fill(d.attention.begin(), d.attention.end(), 0.0f);
  const Result result = run(zeros, d);
  check_sum(zeros, d, result, 0);
}

TEST(hostile_schedules) {
  for_each_schedule([] {
    check_problem({3, 2560, NormKind::kLayer, true, true, true});
    check_problem({2, 4096, NormKind::kRms, true, true, false});
  });
}

// Barriers in order: the sums for the RMS of attention, for the mean, for the variance.
TEST(schedules_see_every_missing_barrier) {
  for (int barrier = 0; barrier < 3; ++barrier) {
    CHECK(mutation_is_seen(barrier, false,
                           [] { check_problem({1, 1024, NormKind::kLayer, true, true, false}); }));
  }
}

TEST(a_row_does_not_depend_on_the_others) {
  const Problem five = {5, 1500, NormKind::kLayer, true, true, false};
  const Data data = make_data(five, 11);
  const Result all = run(five, data);
  for (int64_t row : {0, 2, 4}) {
    Problem one = five;
    one.rows = 1;
    const auto slice = [&](const std::vector<float>& x) {
      return std::vector<float>(x.begin() + row * five.width, x.begin() + (row + 1) * five.width);
    };
    Data d = data;
    d.residual = slice(data.residual);
    d.attention = slice(data.attention);
    d.mlp = slice(data.mlp);
    const Result alone = run(one, d);
    const size_t at = static_cast<size_t>(row * five.width), count = alone.y.size();
    CHECK(std::memcmp(alone.y.data(), all.y.data() + at, count * sizeof(Half)) == 0);
    CHECK(std::memcmp(alone.sum.data(), all.sum.data() + at, count * sizeof(float)) == 0);
  }
}

TEST(nan_spoils_its_own_row_alone) {
  const Problem p = {3, 300, NormKind::kLayer, true, true, false};
  Data d = make_data(p, 12);
  d.attention[300 + 17] = std::numeric_limits<float>::quiet_NaN();
  const Result result = run(p, d);
  for (int64_t i = 0; i < p.width; ++i) CHECK(std::isnan(from_half(result.y[300 + i])));
  for (int64_t row : {0, 2}) check_y(p, d, result, row);
}

TEST(the_sum_alone_or_the_norm_alone) {
  const Problem p = {2, 96, NormKind::kLayer, true, true, false};
  const Data d = make_data(p, 13);
  const Result both = run(p, d);
  DeviceArray<float> residual(d.residual), attention(d.attention), mlp(d.mlp), sum(2 * 96);
  DeviceArray<float> rms_weight(d.rms_weight), weight(d.weight), bias(d.bias);
  DeviceArray<Half> y(2 * 96);
  cuda::NormParams q;
  q.rows = 2;
  q.width = 96;
  q.eps = kEps;
  q.rms_eps = kRmsEps;
  q.residual = residual.data();
  q.attention = attention.data();
  q.mlp = mlp.data();
  q.rms_weight = rms_weight.data();
  q.sum = sum.data();
  cuda::launch_norm(q, {});
  CHECK(std::memcmp(sum.download().data(), both.sum.data(), 2 * 96 * sizeof(float)) == 0);
  q.sum = nullptr;
  q.y = y.data();
  q.weight = weight.data();
  q.bias = bias.data();
  cuda::launch_norm(q, {});
  CHECK(std::memcmp(y.download().data(), both.y.data(), 2 * 96 * sizeof(Half)) == 0);
  CHECK(std::memcmp(residual.download().data(), d.residual.data(), 2 * 96 * sizeof(float)) == 0);
}

// y_float is what y is rounded from, and rows may be chosen.
TEST(f32_rows_and_chosen_rows) {
  const Problem p = {4, 96, NormKind::kLayer, true, true, false};
  const Data d = make_data(p, 14);
  const Result all = run(p, d);
  DeviceArray<float> residual(d.residual), attention(d.attention), mlp(d.mlp);
  DeviceArray<float> rms_weight(d.rms_weight), weight(d.weight), bias(d.bias);
  const std::vector<int32_t> rows = {2, 0, 2};
  DeviceArray<int32_t> source_rows(rows);
  DeviceArray<float> y_float(3 * 96);
  DeviceArray<Half> y(3 * 96);
  cuda::NormParams q;
  q.rows = 3;
  q.width = 96;
  q.eps = kEps;
  q.rms_eps = kRmsEps;
  q.residual = residual.data();
  q.attention = attention.data();
  q.mlp = mlp.data();
  q.rms_weight = rms_weight.data();
  q.weight = weight.data();
  q.bias = bias.data();
  q.source_rows = source_rows.data();
  q.y = y.data();
  cuda::launch_norm(q, {});
  q.y = nullptr;
  q.y_float = y_float.data();
  cuda::launch_norm(q, {});
  CHECK(y.guards_intact() && y_float.guards_intact());
  const std::vector<Half> halves = y.download();
  const std::vector<float> floats = y_float.download();
  for (size_t i = 0; i < halves.size(); ++i) {
    const size_t from = static_cast<size_t>(rows[i / 96]) * 96 + i % 96;
    CHECK_EQ(halves[i].bits, all.y[from].bits);
    CHECK_EQ(to_half(floats[i]).bits, halves[i].bits);
  }
}

TEST(bytes_count_every_tensor_once) {
  float word = 0;
  Half half = {0};
  cuda::NormParams p;
  p.rows = 3;
  p.width = 100;
  p.residual = p.weight = p.bias = &word;
  p.y = &half;
  CHECK_EQ(cuda::norm_bytes(p), int64_t{300 * (4 + 2) + 2 * 400});
  p.sum = &word;
  p.attention = p.mlp = p.rms_weight = &word;
  CHECK_EQ(cuda::norm_bytes(p), int64_t{300 * (4 + 2 + 4 + 8) + 3 * 400});
  int32_t row = 0;
  p.sum = nullptr;
  p.y = nullptr;
  p.y_float = &word;
  p.source_rows = &row;
  CHECK_EQ(cuda::norm_bytes(p), int64_t{300 * (4 + 4 + 8) + 3 * 400 + 3 * 4});
}

TEST(why_not_says_what_is_wrong) {
  alignas(16) float words[8] = {};
  alignas(8) Half halves[4] = {};
  cuda::NormParams p;
  const auto why_not = [&p] { return cuda::norm_why_not(p); };
  p.width = 10;
  CHECK_EQ(why_not(), std::string("C is 10, expected a multiple of 4 in 4..8192"));
  p.width = 8196;
  CHECK_EQ(why_not(), std::string("C is 8196, expected a multiple of 4 in 4..8192"));
  p.width = 2560;
  CHECK_EQ(why_not(), std::string("T is 0, expected 1..2^31-1"));
  p.rows = 1;
  CHECK_EQ(why_not(), std::string("residual is null"));
  p.residual = words;
  CHECK_EQ(why_not(), std::string("y and sum are both null"));
  p.y = halves;
  p.attention = words;
  CHECK_EQ(why_not(), std::string("attention and mlp go together, one of them is null"));
  p.attention = nullptr;
  p.rms_weight = words;
  CHECK_EQ(why_not(), std::string("rms_weight needs attention"));
  p.attention = p.mlp = words;
  CHECK_EQ(why_not(), std::string("rms_eps is 0, expected > 0"));
  p.rms_eps = kRmsEps;
  CHECK_EQ(why_not(), std::string("y needs weight"));
  p.weight = words;
  CHECK_EQ(why_not(), std::string("eps is 0, expected > 0"));
  p.eps = kEps;
  CHECK_EQ(why_not(), std::string("LayerNorm needs bias"));
  p.bias = words;
  CHECK_EQ(why_not(), std::string());
  p.kind = NormKind::kRms;
  CHECK_EQ(why_not(), std::string("RMSNorm has no bias"));
  p.kind = NormKind::kLayer;
  p.y = halves + 1;
  CHECK_EQ(why_not(), std::string("y is not 8-byte aligned"));
  p.y = halves;
  p.mlp = words + 1;
  CHECK_EQ(why_not(), std::string("a float tensor is not 16-byte aligned"));
  p.mlp = words;
  p.y_float = words;
  CHECK_EQ(why_not(), std::string("y and y_float are both there"));
  p.y = nullptr;
  CHECK_EQ(why_not(), std::string());
  const int32_t rows[1] = {};
  p.source_rows = rows;
  p.sum = words;
  CHECK_EQ(why_not(), std::string("sum has the rows of residual, source_rows chooses others"));
  p.sum = nullptr;
  p.mlp = words + 1;
  CHECK_THROWS(InvalidArgument, cuda::launch_norm(p, {}), "norm: a float tensor");
}

}  // namespace
}  // namespace tgv::test

TEST_MAIN()
