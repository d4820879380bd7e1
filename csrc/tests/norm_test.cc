// kernels/cpu/norm against double precision on every instruction set here, at every width around
// its vectors; arrays end where the widths do, which sanitizers watch.
#include "kernels/cpu/norm.h"

#include <cmath>
#include <random>

#include "tests/check.h"
#include "tests/tolerance.h"

namespace tgv::test {
namespace {

constexpr float kEps = 1e-5f;

std::vector<float> random_floats(int64_t count, uint32_t seed, float middle = 0.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(middle, 1.0f);
  std::vector<float> out;
  for (int64_t i = 0; i < count; ++i) out.push_back(normal(random));
  return out;
}

struct Rows {
  int64_t width, tokens;
  std::vector<float> x, weight, bias, mlp;

  Rows(int64_t width, int64_t tokens, float middle = 0.0f)
      : width(width),
        tokens(tokens),
        x(random_floats(width * tokens, 1, middle)),
        weight(random_floats(width, 2)),
        bias(random_floats(width, 3)),
        mlp(random_floats(width * tokens, 4)) {}

  size_t at(int64_t t, int64_t c) const { return static_cast<size_t>(t * width + c); }
};

// Roundings along one chain of a sum of `width` terms: norm.h, Numerics.
double sum_units(int64_t width) { return (width / 64 + 10) * kFloatUnit; }

struct Statistics {
  double mean = 0, magnitude = 0, square = 0, variance = 0;
};

Statistics statistics_of(const Rows& r, int64_t t) {
  Statistics s;
  const double n = static_cast<double>(r.width);
  for (int64_t c = 0; c < r.width; ++c) {
    const double x = r.x[r.at(t, c)];
    s.mean += x / n;
    s.magnitude += std::fabs(x) / n;
    s.square += x * x / n;
  }
  for (int64_t c = 0; c < r.width; ++c) s.variance += std::pow(r.x[r.at(t, c)] - s.mean, 2) / n;
  return s;
}

void near(double got, double expected, double bound, const std::string& what) {
  if (!(std::fabs(got - expected) <= bound)) {
    fail(__FILE__, __LINE__, concat(what, " is ", got, ", expected ", expected, " within ", bound));
  }
}

void check_layer_norm(const Rows& r, Isa isa) {
  std::vector<float> y(r.x.size(), std::nanf(""));
  cpu::layer_norm(y.data(), r.x.data(), r.weight.data(), r.bias.data(), r.width, kEps, r.tokens,
                  isa);
  const double units = sum_units(r.width);
  for (int64_t t = 0; t < r.tokens; ++t) {
    const Statistics s = statistics_of(r, t);
    const double variance = s.variance + static_cast<double>(kEps);
    const double inverse = 1 / std::sqrt(variance);
    const double mean_error = units * s.magnitude + kFloatUnit * std::fabs(s.mean);
    const double relative = 5 * kFloatUnit + units + mean_error * mean_error / variance;
    for (int64_t c = 0; c < r.width; ++c) {
      const double d = r.x[r.at(t, c)] - s.mean, w = r.weight[static_cast<size_t>(c)];
      const double truth = d * inverse * w + r.bias[static_cast<size_t>(c)];
      const double scaled = std::fabs(w) * inverse * (mean_error + std::fabs(d) * relative);
      near(y[r.at(t, c)], truth, 1.01 * scaled + kFloatUnit * std::fabs(truth),
           concat(isa_name(isa), " C=", r.width, " layer_norm[", t, ",", c, "]"));
    }
  }
}

void check_rms_and_sum(const Rows& r, bool normed, Isa isa) {
  std::vector<float> y(r.x.size(), std::nanf("")), sum = r.mlp;
  cpu::rms_norm(y.data(), r.x.data(), r.weight.data(), r.width, kEps, r.tokens, isa);
  cpu::add_branches(sum.data(), r.x.data(), normed ? r.weight.data() : nullptr, kEps, r.mlp.data(),
                    r.width, r.tokens, isa);
  for (int64_t t = 0; t < r.tokens; ++t) {
    const double inverse = 1 / std::sqrt(statistics_of(r, t).square + static_cast<double>(kEps));
    for (int64_t c = 0; c < r.width; ++c) {
      const double value = r.x[r.at(t, c)], mlp = r.mlp[r.at(t, c)];
      const double norm = value * inverse * static_cast<double>(r.weight[static_cast<size_t>(c)]);
      const double bound = (5 * kFloatUnit + sum_units(r.width)) * std::fabs(norm);
      near(y[r.at(t, c)], norm, bound, concat(isa_name(isa), " rms_norm[", t, ",", c, "]"));
      const double branch = normed ? norm : value, inner = branch + mlp, all = mlp + inner;
      near(sum[r.at(t, c)], all, 1.01 * (bound + kFloatUnit * (std::fabs(inner) + std::fabs(all))),
           concat(isa_name(isa), " add_branches[", t, ",", c, "]"));
    }
  }
}

TEST(every_width_on_every_isa) {
  std::vector<int64_t> widths = {31, 32, 33, 47, 48, 49, 63, 64, 65, 80, 127, 128, 129, 2560, 2561};
  for (int64_t width = 1; width <= 17; ++width) widths.push_back(width);
  for (const Isa isa : available_isas()) {
    for (const int64_t width : widths) {
      for (const float middle : {0.0f, 100.0f}) {
        const Rows rows(width, 3, middle);
        check_layer_norm(rows, isa);
        check_rms_and_sum(rows, true, isa);
        check_rms_and_sum(rows, false, isa);
      }
    }
  }
}

TEST(all_instruction_sets_give_the_same_bits_and_rows_are_their_own) {
  const Rows r(777, 4);
  std::vector<float> first;
  for (const Isa isa : available_isas()) {
    std::vector<float> y(r.x.size()), alone(r.x.size()), in_place = r.x;
    cpu::layer_norm(y.data(), r.x.data(), r.weight.data(), r.bias.data(), 777, kEps, 4, isa);
    cpu::layer_norm(in_place.data(), in_place.data(), r.weight.data(), r.bias.data(), 777, kEps, 4,
                    isa);
    for (int64_t t = 0; t < 4; ++t) {
      cpu::layer_norm(alone.data() + r.at(t, 0), r.x.data() + r.at(t, 0), r.weight.data(),
                      r.bias.data(), 777, kEps, 1, isa);
    }
    if (first.empty()) first = y;
    CHECK(y == first && alone == first && in_place == first);
    std::printf("     ran on %s\n", isa_name(isa));  // read by tests/native/test_qemu.py
  }
}

TEST(nothing_to_do_is_done) {
  for (const Isa isa : available_isas()) {
    cpu::layer_norm(nullptr, nullptr, nullptr, nullptr, 16, kEps, 0, isa);
    cpu::rms_norm(nullptr, nullptr, nullptr, 16, kEps, 0, isa);
    cpu::add_branches(nullptr, nullptr, nullptr, kEps, nullptr, 16, 0, isa);
  }
}

}  // namespace
}  // namespace tgv::test

TEST_MAIN()
