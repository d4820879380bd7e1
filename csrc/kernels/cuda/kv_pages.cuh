// Elements of cached keys and values on the device: as operands of the tensor core, and as floats.
#pragma once

#include "kernels/cuda/device/bits.cuh"
#include "kernels/cuda/device/convert.cuh"
#include "kernels/cuda/device/mma.cuh"
#include "kernels/cuda/kv_pages.h"

namespace tgv::cuda {

// Four elements as two words of the tensor core's type.
template <KvKind kKind>
__device__ __forceinline__ uint2 product_words(const uint32_t* words) {
  if constexpr (kKind == KvKind::kI8) {
    return int8x4_to_half4(words[0]);
  } else if constexpr (kKind == KvKind::kE4M3) {
    return e4m3x4_to_half4(words[0]);
  } else {
    return uint2{words[0], words[1]};
  }
}

// Four elements as floats, without their scale.
template <KvKind kKind>
__device__ __forceinline__ float4 to_floats(const uint32_t* words) {
  if constexpr (kKind == KvKind::kF32) {
    return float4{bits_to_float(words[0]), bits_to_float(words[1]), bits_to_float(words[2]),
                  bits_to_float(words[3])};
  } else {
    const uint2 pairs = product_words<kKind>(words);
    constexpr bool kBFloat = kKind == KvKind::kBF16;
    const float2 a = kBFloat ? bfloat2_to_float2(pairs.x) : half2_to_float2(pairs.x);
    const float2 b = kBFloat ? bfloat2_to_float2(pairs.y) : half2_to_float2(pairs.y);
    return float4{a.x, a.y, b.x, b.y};
  }
}

// d += A B in the type of the kind's products: bf16 for bf16 pages, otherwise f16.
template <KvKind kKind>
__device__ __forceinline__ void add_product(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                            uint32_t b1) {
  if constexpr (kKind == KvKind::kBF16) {
    mma_bf16(d, a, b0, b1, d);
  } else {
    mma_f16(d, a, b0, b1, d);
  }
}

// Two floats in that type.
template <KvKind kKind>
__device__ __forceinline__ uint32_t round_pair(float low, float high) {
  return kKind == KvKind::kBF16 ? floats_to_bfloat2(low, high) : floats_to_half2(low, high);
}

}  // namespace tgv::cuda
