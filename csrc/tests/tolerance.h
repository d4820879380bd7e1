// Where every tolerance of the C++ tests comes from.
#pragma once

#include <cmath>

namespace tgv::test {

inline constexpr double kFloatUnit = 1.0 / (1 << 24);  // half a unit in the last place of 1.0f

// Bound on the error of summing `terms` products in fp32 in any order, given the sum of their
// absolute values: each of the additions rounds a partial sum that this bounds. Twice the unit,
// because a tensor core truncates where a CPU rounds.
inline double fp32_sum_bound(double terms, double sum_of_magnitudes) {
  return 2 * kFloatUnit * (terms + 2) * sum_of_magnitudes;
}

}  // namespace tgv::test
