// Rounding of float to e4m3 and to one half: to nearest, ties to even, subnormals kept, NaN stays
// NaN.
#pragma once

#if defined(TGV_SIMT)
#include <cstring>
#endif

#include "kernels/cuda/device/convert.cuh"
#include "kernels/cuda/device/platform.cuh"
#include "kernels/cuda/numbers.h"

namespace tgv::cuda {

__device__ __forceinline__ uint32_t bits_of(float x) {
#if defined(__CUDACC__)
  return __float_as_uint(x);
#else
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
#endif
}

__device__ __forceinline__ Half round_to_half(float x) {
  return {static_cast<uint16_t>(floats_to_half2(x, 0.0f))};
}

// The code of one e4m3 number in integer arithmetic: what GPUs before sm_89 do, and the host.
__device__ __forceinline__ uint32_t round_to_e4m3_in_integers(float x) {
  constexpr uint32_t kNan = 0x7f;
  constexpr float kLargest = 448.0f, kSmallestNormal = 0.015625f, kSubnormalSteps = 512.0f;
  const uint32_t sign = bits_of(x) >> 24 & 0x80u;
  if (!(x == x)) return sign | kNan;
  const float magnitude = fminf(fabsf(x), kLargest);
  // A subnormal that rounds up to 8 steps is the code of the smallest normal number.
  if (magnitude < kSmallestNormal)
    return sign | static_cast<uint32_t>(rintf(magnitude * kSubnormalSteps));
  const uint32_t bits = bits_of(magnitude);
  const uint32_t rounded = bits + 0x7ffffu + (bits >> 20 & 1u);  // 20 mantissa bits go
  return sign | ((rounded >> 20) - (120u << 3));                 // the bias 127 becomes 7
}

// Two e4m3 numbers, `low` in the low 8 bits; beyond 448 it saturates.
__device__ __forceinline__ uint32_t round_to_e4m3x2(float low, float high) {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 890
  uint16_t d;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(d) : "f"(high), "f"(low));
  return d;
#else
  return round_to_e4m3_in_integers(low) | round_to_e4m3_in_integers(high) << 8;
#endif
}

}  // namespace tgv::cuda
