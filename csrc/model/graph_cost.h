// What a backend's captured launches cost. Plain numbers, which cross to the CUDA library. C++17:
// nvcc reads it.
#pragma once

#include <cstdint>

namespace tgv::model {

struct GraphCost {
  int64_t graphs = 0;
  double seconds = 0;  // to capture all of them, at the start
  int64_t bytes = 0;   // of the device's memory, as far as its driver says
};

}  // namespace tgv::model
