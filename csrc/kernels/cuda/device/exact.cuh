// Arithmetic that must round step by step, so that the host gets the same bits: the compiler may
// not fuse a product with a sum here. And whole-number helpers of sampling.
#pragma once

#include "kernels/cuda/device/bits.cuh"
#include "kernels/cuda/device/platform.cuh"
#include "kernels/cuda/device/round.cuh"

namespace tgv::cuda {

__device__ __forceinline__ float exact_add(float a, float b) {
#if defined(__CUDACC__)
  return __fadd_rn(a, b);
#else
  return a + b;  // the host's baseline has no fused instruction
#endif
}

__device__ __forceinline__ float exact_multiply(float a, float b) {
#if defined(__CUDACC__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

__device__ __forceinline__ float exact_divide(float a, float b) {
#if defined(__CUDACC__)
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}

// The upper half of a product.
__device__ __forceinline__ uint64_t multiply_high(uint64_t a, uint64_t b) {
#if defined(__CUDACC__)
  return __umul64hi(a, b);
#else
  __extension__ typedef unsigned __int128 Wide;
  return static_cast<uint64_t>(Wide{a} * b >> 64);
#endif
}

// The index of the lowest bit that is set; bits is not 0.
__device__ __forceinline__ int lowest_bit(uint32_t bits) {
#if defined(__CUDACC__)
  return __ffs(static_cast<int>(bits)) - 1;
#else
  return __builtin_ctz(bits);
#endif
}

// Adds to a word that the threads of a block share; what was there.
__device__ __forceinline__ int32_t block_fetch_add(int32_t* word, int32_t value) {
#if defined(__CUDACC__)
  return atomicAdd_block(word, value);
#else
  const int32_t before = *word;  // threads of a block are fibers of one thread
  *word += value;
  return before;
#endif
}

__device__ __forceinline__ int32_t block_exchange(int32_t* word, int32_t value) {
#if defined(__CUDACC__)
  return atomicExch_block(word, value);
#else
  const int32_t before = *word;
  *word = value;
  return before;
#endif
}

// exp(x) for x <= 0, NaN apart, rounding by rounding as kernels/cpu/lanes.h does it.
__device__ __forceinline__ float exp_of_negative(float x) {
  const float shifted = exact_add(exact_multiply(x, 1.4426950408889634f), 12582912.0f);
  const float n = exact_add(shifted, -12582912.0f);
  const float high = exact_add(x, -exact_multiply(n, 0.693145751953125f));
  const float r = exact_add(high, -exact_multiply(n, 1.4286068203094172e-6f));
  float p = exact_add(exact_multiply(r, 0.0013926250394433737f), 0.00836323294788599f);
  p = exact_add(exact_multiply(p, r), 0.04166655242443085f);
  p = exact_add(exact_multiply(p, r), 0.16666576266288757f);
  p = exact_add(exact_multiply(p, r), 0.5f);
  p = exact_add(exact_multiply(p, r), 1.0f);
  p = exact_add(exact_multiply(p, r), 1.0f);
  const float power = bits_to_float((bits_of(shifted) - (0x4b400000u - 127u)) << 23);
  return x < -87.0f ? 0.0f : exact_multiply(p, power);
}

// 64 random bits for one token: Philox4x32-10 of kernels/cpu/philox.h.
__device__ __forceinline__ uint64_t random_bits(uint64_t seed, int64_t position, uint32_t sample) {
  uint32_t c[4] = {static_cast<uint32_t>(position),
                   static_cast<uint32_t>(static_cast<uint64_t>(position) >> 32), sample, 0};
  uint32_t k[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * c[0], b = uint64_t{0xCD9E8D57u} * c[2];
    c[0] = static_cast<uint32_t>(b >> 32) ^ c[1] ^ k[0];
    c[1] = static_cast<uint32_t>(b);
    c[2] = static_cast<uint32_t>(a >> 32) ^ c[3] ^ k[1];
    c[3] = static_cast<uint32_t>(a);
    k[0] += 0x9E3779B9u;
    k[1] += 0xBB67AE85u;
  }
  return c[0] | uint64_t{c[1]} << 32;
}

}  // namespace tgv::cuda
