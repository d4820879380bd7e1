// The kinds of numbers that matrix products take, one interface each.
#pragma once

#include "kernels/cuda/device/convert.cuh"
#include "kernels/cuda/device/mma.cuh"
#include "kernels/cuda/device/platform.cuh"

namespace tgv::cuda {

// threadIdx.x, read anew: what is computed from it cannot be hoisted out of a loop. For code that
// runs rarely beside a loop that needs the registers.
__device__ __forceinline__ int thread_read_anew() {
#if defined(__CUDACC__)
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
#else
  return static_cast<int>(threadIdx.x);
#endif
}

struct HalfElement {
  using Storage = uint16_t;
  static __device__ __forceinline__ float load(const void* from, int64_t i) {
    return half_to_float({static_cast<const uint16_t*>(from)[i]});
  }
  static __device__ __forceinline__ void store(void* to, int64_t i, float value) {
    uint16_t bits;
#if defined(__CUDACC__)
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#else
    bits = simt::float_to_half(value);
#endif
    static_cast<uint16_t*>(to)[i] = bits;
  }
  static __device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4],
                                                  uint32_t b0, uint32_t b1) {
    mma_f16(c, a, b0, b1, c);
  }
};

struct BFloat16Element {
  using Storage = uint16_t;
  static __device__ __forceinline__ float load(const void* from, int64_t i) {
    const uint32_t bits = uint32_t{static_cast<const uint16_t*>(from)[i]} << 16;
    float value;
#if defined(__CUDACC__)
    value = __uint_as_float(bits);
#else
    value = simt::bfloat16_to_float(static_cast<uint16_t>(bits >> 16));
#endif
    return value;
  }
  static __device__ __forceinline__ void store(void* to, int64_t i, float value) {
    uint16_t bits;
#if defined(__CUDACC__)
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#else
    bits = simt::float_to_bfloat16(value);
#endif
    static_cast<uint16_t*>(to)[i] = bits;
  }
  static __device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4],
                                                  uint32_t b0, uint32_t b1) {
    mma_bf16(c, a, b0, b1, c);
  }
};

struct FloatElement {
  using Storage = uint32_t;
  static __device__ __forceinline__ float load(const void* from, int64_t i) {
    return static_cast<const float*>(from)[i];
  }
  static __device__ __forceinline__ void store(void* to, int64_t i, float value) {
    static_cast<float*>(to)[i] = value;
  }
};

}  // namespace tgv::cuda
