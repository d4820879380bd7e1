// Conversions between packed 16-bit floats and float.
#pragma once

#include "kernels/cuda/device/platform.cuh"
#include "kernels/cuda/numbers.h"

namespace tgv::cuda {

__device__ __forceinline__ float half_to_float(Half h) {
#if defined(__CUDACC__)
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h.bits));
  return f;
#else
  return simt::half_to_float(h.bits);
#endif
}

// The two halves of a word: .x the low one.
__device__ __forceinline__ float2 half2_to_float2(uint32_t word) {
  return make_float2(half_to_float({static_cast<uint16_t>(word & 0xffff)}),
                     half_to_float({static_cast<uint16_t>(word >> 16)}));
}

// a - b of both halves, each rounded once.
__device__ __forceinline__ uint32_t half2_subtract(uint32_t a, uint32_t b) {
#if defined(__CUDACC__)
  uint32_t d;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
#else
  const float2 x = half2_to_float2(a), y = half2_to_float2(b);
  return simt::float_to_half(x.x - y.x) | static_cast<uint32_t>(simt::float_to_half(x.y - y.y))
                                              << 16;
#endif
}

}  // namespace tgv::cuda
