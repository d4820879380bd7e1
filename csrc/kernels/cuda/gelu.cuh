// The tanh-GELU of the products' epilogues.
#pragma once

#include "kernels/cuda/device/bits.cuh"

namespace tgv::cuda {

// v / (1 + exp(-2 u)), u = sqrt(2 / pi) (v + 0.044715 v^3).
__device__ __forceinline__ float gelu_tanh(float v) {
  constexpr float kScale = -2.0f * 0.7978845608028654f * 1.4426950408889634f;
  return v / (1.0f + exp2_fast(kScale * fmaf(0.044715f * v * v, v, v)));
}

}  // namespace tgv::cuda
