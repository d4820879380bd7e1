// Numbers of sampling.cuh: floats as unsigned integers of the same order, with an id beside them,
// and exponentials as weights of a draw.
#pragma once

#include "kernels/cuda/device/exact.cuh"
#include "kernels/cuda/device/platform.cuh"

namespace tgv::cuda {

constexpr float kFloatLargest = 3.4028234663852886e38f;

// Keys: unsigned integers in the order of floats; both zeros have one, NaN is above everything.
constexpr uint32_t kInfinityKey = 0xff800000u, kMinusInfinityKey = 0x007fffffu;

__device__ __forceinline__ uint32_t key_of(float value) {
  if (!(value == value)) return 0xffffffffu;
  const uint32_t bits = bits_of(exact_add(value, 0.0f));  // -0 becomes 0
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float value_of(uint32_t key) {
  return bits_to_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

// An exponential in 0..1 as an integer: at most 2^62 for 2^22 of them.
__device__ __forceinline__ uint64_t token_weight(float e) {
  return static_cast<uint64_t>(static_cast<int64_t>(exact_multiply(e, 0x1p40f)));
}

// Largest key, and the lowest id among its equals, as one number.
__device__ __forceinline__ uint64_t key_and_id(float logit, int id) {
  return uint64_t{key_of(logit)} << 32 | ~static_cast<uint32_t>(id);
}
__device__ __forceinline__ int id_of(uint64_t key_and_id) {
  return static_cast<int>(~static_cast<uint32_t>(key_and_id));
}
__device__ __forceinline__ uint32_t key_part(uint64_t key_and_id) {
  return static_cast<uint32_t>(key_and_id >> 32);
}

}  // namespace tgv::cuda
