// A matrix as whoever fills weights has it, on the CPU or on a GPU: nvcc reads this header, so it
// is C++17.
#pragma once

#include <cstdint>

namespace tgv::model {

// A matrix as a model directory stores it. Which members are read depends on the form.
struct MatrixSource {
  const uint8_t* int4 = nullptr;      // [N, ceil(K/2)] low nibble = even k
  const uint16_t* scales = nullptr;   // [N, ceil(K/G)] float16 bits
  const uint8_t* zeros = nullptr;     // [N, ceil(ceil(K/G)/2)]; null when symmetric
  const int8_t* int8 = nullptr;       // [N, K]
  const float* row_scales = nullptr;  // [N], of int8
  const float* f32 = nullptr;         // [N, K]; a bf16 form is rounded from it to nearest even
  const uint16_t* bf16 = nullptr;     // [N, K]; exactly one of f32 and bf16 for those two forms
};

}  // namespace tgv::model
