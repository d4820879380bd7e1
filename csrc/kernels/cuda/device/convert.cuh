// Conversions between packed 16-bit floats, float, and the 8-bit elements of a cache.
#pragma once

#include "kernels/cuda/device/bits.cuh"
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

// a * b of both halves, each rounded once.
__device__ __forceinline__ uint32_t half2_multiply(uint32_t a, uint32_t b) {
#if defined(__CUDACC__)
  uint32_t d;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
#else
  const float2 x = half2_to_float2(a), y = half2_to_float2(b);
  return simt::float_to_half(x.x * y.x) | static_cast<uint32_t>(simt::float_to_half(x.y * y.y))
                                              << 16;
#endif
}

// Two floats as a word of halves, to nearest even: `low` in the low half.
__device__ __forceinline__ uint32_t floats_to_half2(float low, float high) {
#if defined(__CUDACC__)
  uint32_t d;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
#else
  return simt::float_to_half(low) | static_cast<uint32_t>(simt::float_to_half(high)) << 16;
#endif
}

// The same in bfloat16.
__device__ __forceinline__ uint32_t floats_to_bfloat2(float low, float high) {
#if defined(__CUDACC__)
  uint32_t d;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
#else
  return simt::float_to_bfloat16(low) | static_cast<uint32_t>(simt::float_to_bfloat16(high)) << 16;
#endif
}

__device__ __forceinline__ float2 bfloat2_to_float2(uint32_t word) {
  return make_float2(bits_to_float(word << 16), bits_to_float(word & 0xffff0000u));
}

// The four signed bytes of a word as halves, exactly: 1024 + (128 + byte) is a byte placed in a
// half.
__device__ __forceinline__ uint2 int8x4_to_half4(uint32_t word) {
  constexpr uint32_t k1024 = 0x64646464u, k1152 = 0x64806480u;
  const uint32_t shifted = word ^ 0x80808080u;
  return uint2{half2_subtract(pick_bytes<0x4140>(shifted, k1024), k1152),
               half2_subtract(pick_bytes<0x4342>(shifted, k1024), k1152)};
}

// Two e4m3 in the upper bytes of the halves of a word. As bits of a half they are 2^-8 of their
// value, subnormals included; NaN (magnitude 0x7f) is put in by hand.
__device__ __forceinline__ uint32_t upper_e4m3_to_half2(uint32_t word) {
  const uint32_t scaled = (word & 0x80008000u) | ((word >> 1) & 0x3f803f80u);
  const uint32_t nan = (((word & 0x7f007f00u) + 0x01000100u) & 0x80008000u) >> 8;  // 0x80 if so
  return half2_multiply(scaled, 0x5c005c00u) | nan * 0xfcu;                        // 256; 0x7e00
}

// The four e4m3 of a word as halves, exactly.
__device__ __forceinline__ uint2 e4m3x4_to_half4(uint32_t word) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  uint2 d;
  asm("{\n.reg .b16 low, high;\n"
      "mov.b32 {low, high}, %2;\n"
      "cvt.rn.f16x2.e4m3x2 %0, low;\n"
      "cvt.rn.f16x2.e4m3x2 %1, high;\n}"
      : "=r"(d.x), "=r"(d.y)
      : "r"(word));
  return d;
#else
  return uint2{upper_e4m3_to_half2(pick_bytes<0x1404>(word, 0)),
               upper_e4m3_to_half2(pick_bytes<0x3424>(word, 0))};
#endif
}

}  // namespace tgv::cuda
