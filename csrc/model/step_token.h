// What a step takes at one position, on the CPU or on a GPU: nvcc reads this header, so it is
// C++17.
#pragma once

#include <cstdint>

namespace tgv::model {

// What goes in at one position: a token's embedding, or a given vector.
struct StepToken {
  int32_t id = 0;                    // in [0, V); not read if embedding is given
  const float* embedding = nullptr;  // [C]
};

}  // namespace tgv::model
