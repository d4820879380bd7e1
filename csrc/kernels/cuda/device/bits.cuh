// Integer tricks that are one instruction on a GPU, and the fast exponential.
#pragma once

#if defined(TGV_SIMT)
#include <cstring>
#endif

#include "kernels/cuda/device/platform.cuh"

namespace tgv::cuda {

// Any function of three bits, bitwise: bit (4a + 2b + c) of kTable is the result. 0xEA = (a & b) |
// c.
template <unsigned kTable>
__device__ __forceinline__ uint32_t lop3(uint32_t a, uint32_t b, uint32_t c) {
#if defined(__CUDACC__)
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(d) : "r"(a), "r"(b), "r"(c), "n"(kTable));
  return d;
#else
  uint32_t d = 0;
  for (int i = 0; i < 8; ++i) {
    if (kTable >> i & 1) d |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  }
  return d;
#endif
}

__device__ __forceinline__ uint32_t rotate_right_8(uint32_t a) {
#if defined(__CUDACC__)
  return __funnelshift_r(a, a, 8);
#else
  return a >> 8 | a << 24;
#endif
}

// Picks the bytes of a result (lowest first, by the nibbles of kSelector) from the eight of b:a, 0
// the lowest of a.
template <unsigned kSelector>
__device__ __forceinline__ uint32_t pick_bytes(uint32_t a, uint32_t b) {
#if defined(__CUDACC__)
  return __byte_perm(a, b, kSelector);
#else
  const uint64_t bytes = a | static_cast<uint64_t>(b) << 32;
  uint32_t d = 0;
  for (int i = 0; i < 4; ++i) {
    d |= static_cast<uint32_t>(bytes >> (kSelector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  }
  return d;
#endif
}

__device__ __forceinline__ float bits_to_float(uint32_t bits) {
#if defined(__CUDACC__)
  return __uint_as_float(bits);
#else
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
#endif
}

// 2^x, relative error at most 2^-22 (ex2.approx); subnormal results become 0.
__device__ __forceinline__ float exp2_fast(float x) {
#if defined(__CUDACC__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}

}  // namespace tgv::cuda
