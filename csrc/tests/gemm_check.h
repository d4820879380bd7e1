// What the tests of the matrix products share: the last steps of a product in double precision, how
// far a kernel may be from it, and a workspace that is poisoned but for its counters.
#pragma once

#include <cmath>
#include <random>
#include <vector>

#include "kernels/cuda/gemm.h"
#include "tests/check.h"
#include "tests/device_array.h"
#include "tests/tolerance.h"

namespace tgv::test {

// A value and a bound on the distance to it.
struct Near {
  double value, bound;
};

// The tanh-GELU of `in`. Its slope is at most 1.13. What the kernel adds: a few roundings and, from
// z = -2 u log2(e), a relative error of exp2(z) of about |z| units, both relative to the result.
inline Near gelu_near(Near in) {
  const double u = 0.7978845608028654 * (in.value + 0.044715 * in.value * in.value * in.value);
  const double value = in.value / (1 + std::exp(-2 * u));
  const double relative = (4 * std::fabs(2 * u * 1.4427) + 16) * kFloatUnit;
  return {value, 1.13 * in.bound + relative * std::fabs(value)};
}

// Rounding to a number with `bits` stored bits of mantissa, `step` being the smallest subnormal.
inline Near rounded_near(Near in, int bits, double step) {
  return {in.value, in.bound + std::ldexp(std::fabs(in.value) + in.bound, -bits - 1) + step / 2};
}

inline void check_near(double got, Near expected, const std::string& where) {
  if (!(std::fabs(got - expected.value) <= expected.bound)) {
    fail(__FILE__, __LINE__,
         concat(where, " is ", got, ", expected ", expected.value, " within ", expected.bound));
  }
}

// The counters are zero, the rest NaN.
class Workspace {
 public:
  explicit Workspace(const cuda::GemmWork& work)
      : counters_(static_cast<size_t>(cuda::gemm_counter_bytes(work) / 4)), words_(fill(work)) {}

  void give_to(cuda::GemmProblem& p) {
    p.workspace = words_.data();
    p.workspace_bytes = static_cast<int64_t>(count_ * 4);
  }

  // Nothing written outside, and the counters as the next launch needs them.
  void check_after() {
    CHECK(words_.guards_intact());
    const std::vector<uint32_t> words = words_.download();
    for (size_t i = 0; i < counters_; ++i) CHECK_EQ(words[i], 0u);
  }

 private:
  std::vector<uint32_t> fill(const cuda::GemmWork& work) {
    count_ = static_cast<size_t>(cuda::gemm_workspace_bytes(work) / 4);
    std::vector<uint32_t> words(count_, 0xffffffffu);
    std::fill_n(words.begin(), counters_, 0u);
    return words;
  }

  size_t counters_, count_ = 0;
  DeviceArray<uint32_t> words_;
};

}  // namespace tgv::test
