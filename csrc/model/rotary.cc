#include "model/rotary.h"

#include <cmath>

namespace tgv::model {

void make_rotary(std::vector<float>& cosines, std::vector<float>& sines,
                 const Architecture& architecture) {
  const int64_t half = architecture.rotary_dims / 2;
  const size_t count = static_cast<size_t>(architecture.max_positions * half);
  cosines.resize(count);
  sines.resize(count);
  for (int64_t i = 0; i < half; ++i) {
    const float power = static_cast<float>(2 * i) / static_cast<float>(2 * half);
    const float inverse =
        1.0f / static_cast<float>(std::pow(architecture.rope_theta, static_cast<double>(power)));
    for (int64_t p = 0; p < architecture.max_positions; ++p) {
      const float angle = static_cast<float>(p) * inverse;
      cosines[static_cast<size_t>(p * half + i)] = std::cos(angle);
      sines[static_cast<size_t>(p * half + i)] = std::sin(angle);
    }
  }
}

}  // namespace tgv::model
