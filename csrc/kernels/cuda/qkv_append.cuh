// What      The rows of q, k and v that a token's qkv product gives: q and k normalised and
// rotated,
//           k and v rounded and written to their place in the paged cache.
//
// Math      norm(x) = (x - mean) / sqrt(var + eps) * weight + bias over D, or x without weight.
//           rotate: of the first R dims, x_i and x_(i + R/2) become x_i cos - x_(i+R/2) sin and
//           x_(i+R/2) cos + x_i sin with cos, sin [position, i]; the others pass.
//           int8: scale = half(max|x| / 127), level = x (1 / scale) to nearest, ties to even,
//           within
//           +-127. e4m3: scale = half(max|x| / 448), element = e4m3(x (1 / scale)), saturating. A
//           row that holds NaN or infinity, or whose scale is no finite half, gets the scale NaN
//           and elements 0; a scale of 0 has elements 0.
//
// Tensors   QkvAppendParams (qkv_append.h), pages as in kv_pages.h.
//
// Threads   One warp per row: (token, head) and one of q, k, v, so that the 96 rows of one token of
//           32 heads spread over the multiprocessors. A lane holds every 32nd vector of four
//           numbers (D = 80: twenty lanes, one vector each). Sums are shuffle trees, and a number
//           gets its partner of the rotation by a shuffle too: no shared memory, no barrier.
//
// Traffic   Everything once, 16 bytes a lane in, 4 to 16 out; qkv_append_bytes counts it. The row
//           is loaded before the place is looked up, which takes two loads that depend on each
//           other.
//
// Limits    qkv_append_why_not: D a multiple of 8 up to 256, R a multiple of 8.
//
// Numerics  fp32; a row depends on its own numbers and position alone. Which products are fused is
//           written out, so that all kinds round the same fp32 numbers.
//
// Oracle    Double precision, and the rounding rule bit for bit,
// csrc/tests/cuda_qkv_append_test.cc.
#pragma once

#include "kernels/cuda/device/convert.cuh"
#include "kernels/cuda/device/dependent.cuh"
#include "kernels/cuda/device/round.cuh"
#include "kernels/cuda/qkv_append.h"

namespace tgv::cuda {

inline constexpr int kQkvAppendWarps = 4;

// A lane's share of a row: of[i] is vector lane + 32 i, zeros beyond D.
template <int kVectors>
struct HeadRow {
  float4 of[kVectors];
};

__device__ __forceinline__ int head_vector(int i) {
  return static_cast<int>(threadIdx.x & 31) + 32 * i;
}

template <int kVectors>
__device__ __forceinline__ HeadRow<kVectors> load_head(const float* row, int vectors) {
  HeadRow<kVectors> x;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int v = head_vector(i);
    x.of[i] =
        v < vectors ? reinterpret_cast<const float4*>(row)[v] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  }
  return x;
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) value += __shfl_xor_sync(0xffffffffu, value, d);
  return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, d));
  return value;
}

template <int kVectors>
__device__ __forceinline__ void normalise_head(HeadRow<kVectors>& x, const float* weight,
                                               const float* bias, float eps, int vectors) {
  const HeadRow<kVectors> w = load_head<kVectors>(weight, vectors);
  const HeadRow<kVectors> b = load_head<kVectors>(bias, bias ? vectors : 0);
  const float count = static_cast<float>(4 * vectors);
  float sum = 0.0f, squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    sum += (x.of[i].x + x.of[i].y) + (x.of[i].z + x.of[i].w);
  }
  const float mean = warp_sum(sum) / count;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    if (head_vector(i) >= vectors) continue;  // zeros are not part of the row
    float4& a = x.of[i];
    a = make_float4(a.x - mean, a.y - mean, a.z - mean, a.w - mean);
    squares += fmaf(a.x, a.x, fmaf(a.y, a.y, fmaf(a.z, a.z, a.w * a.w)));
  }
  const float scale = 1.0f / sqrtf(warp_sum(squares) / count + eps);
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    float4& a = x.of[i];
    a = make_float4(
        fmaf(a.x * scale, w.of[i].x, b.of[i].x), fmaf(a.y * scale, w.of[i].y, b.of[i].y),
        fmaf(a.z * scale, w.of[i].z, b.of[i].z), fmaf(a.w * scale, w.of[i].w, b.of[i].w));
  }
}

// Vector v of the row, each lane its own v.
template <int kVectors>
__device__ __forceinline__ float4 vector_of_row(const HeadRow<kVectors>& x, int v) {
  float4 found = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const float4 here = make_float4(
        __shfl_sync(0xffffffffu, x.of[i].x, v & 31), __shfl_sync(0xffffffffu, x.of[i].y, v & 31),
        __shfl_sync(0xffffffffu, x.of[i].z, v & 31), __shfl_sync(0xffffffffu, x.of[i].w, v & 31));
    if (v >> 5 == i) found = here;
  }
  return found;
}

// cos, sin: of the row's position. half: R/2 in vectors.
template <int kVectors>
__device__ __forceinline__ void rotate_head(HeadRow<kVectors>& x, const float* cos,
                                            const float* sin, int half) {
  const HeadRow<kVectors> before = x;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int v = head_vector(i);
    const bool low = v < half, turns = v < 2 * half;
    const float4 other = vector_of_row(before, !turns ? v : low ? v + half : v - half);
    if (!turns) continue;
    const int angle = low ? v : v - half;
    const float4 c = reinterpret_cast<const float4*>(cos)[angle];
    const float4 s = reinterpret_cast<const float4*>(sin)[angle];
    const float sign = low ? -1.0f : 1.0f;
    float4& a = x.of[i];
    a = make_float4(fmaf(a.x, c.x, sign * other.x * s.x), fmaf(a.y, c.y, sign * other.y * s.y),
                    fmaf(a.z, c.z, sign * other.z * s.z), fmaf(a.w, c.w, sign * other.w * s.w));
  }
}

// --- rounding -----------------------------------------------------------------------------------
__device__ __forceinline__ bool is_finite(float4 a) {
  constexpr float kLargest = 3.402823466e38f;
  return fabsf(a.x) <= kLargest && fabsf(a.y) <= kLargest && fabsf(a.z) <= kLargest &&
         fabsf(a.w) <= kLargest;
}

// Divides the row by its scale, which is returned; the elements of a row without one become 0.
template <int kVectors>
__device__ __forceinline__ Half scale_head(HeadRow<kVectors>& x, float largest_level) {
  constexpr uint16_t kInfinity = 0x7c00, kNan = 0x7e00;
  float most = 0.0f;
  bool finite = true;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const float4 a = x.of[i];
    most = fmaxf(most, fmaxf(fmaxf(fabsf(a.x), fabsf(a.y)), fmaxf(fabsf(a.z), fabsf(a.w))));
    finite = finite && is_finite(a);
  }
  Half scale = round_to_half(warp_max(most) / largest_level);
  if (!__all_sync(0xffffffffu, finite) || scale.bits >= kInfinity) scale.bits = kNan;
  const bool none = scale.bits == 0 || scale.bits == kNan;
  const float inverse = none ? 0.0f : 1.0f / half_to_float(scale);
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    float4& a = x.of[i];  // not a product with 0, which is NaN where the row holds infinity
    a = none ? make_float4(0.0f, 0.0f, 0.0f, 0.0f)
             : make_float4(a.x * inverse, a.y * inverse, a.z * inverse, a.w * inverse);
  }
  return scale;
}

__device__ __forceinline__ uint32_t int8_level(float x) {
  return static_cast<uint32_t>(static_cast<int>(fminf(fmaxf(rintf(x), -127.0f), 127.0f))) & 0xffu;
}

// Vector v of a row of elements.
template <KvKind kKind>
__device__ __forceinline__ void store_elements(void* row, int v, float4 a) {
  if (kKind == KvKind::kF32) {
    static_cast<float4*>(row)[v] = a;
  } else if (kKind == KvKind::kF16) {
    static_cast<uint2*>(row)[v] = uint2{floats_to_half2(a.x, a.y), floats_to_half2(a.z, a.w)};
  } else if (kKind == KvKind::kBF16) {
    static_cast<uint2*>(row)[v] = uint2{floats_to_bfloat2(a.x, a.y), floats_to_bfloat2(a.z, a.w)};
  } else if (kKind == KvKind::kI8) {
    static_cast<uint32_t*>(row)[v] =
        int8_level(a.x) | int8_level(a.y) << 8 | int8_level(a.z) << 16 | int8_level(a.w) << 24;
  } else {
    static_cast<uint32_t*>(row)[v] = round_to_e4m3x2(a.x, a.y) | round_to_e4m3x2(a.z, a.w) << 16;
  }
}

template <KvKind kKind, int kVectors>
__device__ __forceinline__ void store_head(void* row, const HeadRow<kVectors>& x, int vectors) {
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int v = head_vector(i);
    if (v < vectors) store_elements<kKind>(row, v, x.of[i]);
  }
}

template <int kVectors>
__device__ __forceinline__ void store_query(const QkvAppendParams& p, int64_t head_row,
                                            const HeadRow<kVectors>& x, int vectors) {
  const int64_t at = head_row * p.head_dim;
  if (p.q_kind == KvKind::kF32) {
    store_head<KvKind::kF32>(static_cast<float*>(p.q) + at, x, vectors);
  } else if (p.q_kind == KvKind::kF16) {
    store_head<KvKind::kF16>(static_cast<uint16_t*>(p.q) + at, x, vectors);
  } else {
    store_head<KvKind::kBF16>(static_cast<uint16_t*>(p.q) + at, x, vectors);
  }
}

// `cached`: the row of the cache, counted in rows.
template <KvKind kKind, int kVectors>
__device__ __forceinline__ void store_cached(void* pages, Half* scales, int64_t cached,
                                             int head_dim, HeadRow<kVectors>& x, int vectors) {
  if (kKvHasScales<kKind>) {
    const Half scale = scale_head(x, kKind == KvKind::kI8 ? 127.0f : 448.0f);
    if ((threadIdx.x & 31) == 0) scales[cached] = scale;
  }
  uint8_t* row = static_cast<uint8_t*>(pages) + cached * head_dim * kKvElementBytes<kKind>;
  store_head<kKind>(row, x, vectors);
}

// --- places -------------------------------------------------------------------------------------
struct TokenPlace {
  int position, page;  // page -1: none
};

__device__ __forceinline__ TokenPlace place_of_token(const QkvAppendParams& p, int token) {
  const int position = p.positions[token];
  const int sequence = p.sequence_of ? p.sequence_of[token] : token;
  if (position < 0 || position / kPagePositions >= p.max_pages) return {position, -1};
  if (p.rotary_dims && position >= p.rotary_positions) return {position, -1};
  if (sequence < 0 || sequence >= p.sequences) return {position, -1};
  const int page = p.block_table[int64_t{sequence} * p.max_pages + position / kPagePositions];
  return {position, page < p.pages ? page : -1};
}

template <KvKind kKind, int kVectors>
__global__ void __launch_bounds__(kQkvAppendWarps * 32) qkv_append(const QkvAppendParams p) {
  wait_for_previous();
  const int64_t row = int64_t{blockIdx.x} * kQkvAppendWarps + (threadIdx.x >> 5);
  const int64_t head_row = row / 3;  // (token, head)
  const int part = static_cast<int>(row - head_row * 3), vectors = p.head_dim / 4;
  if (head_row >= int64_t{p.tokens} * p.heads) return;  // whole warps leave together
  const int token = static_cast<int>(head_row / p.heads);
  const int head = static_cast<int>(head_row - int64_t{token} * p.heads);
  HeadRow<kVectors> x = load_head<kVectors>(p.qkv + row * p.head_dim, vectors);
  const TokenPlace place = place_of_token(p, token);
  if (place.page < 0) return;

  if (part < 2) {
    const float* weight = part == 0 ? p.q_weight : p.k_weight;
    if (weight) normalise_head(x, weight, part == 0 ? p.q_bias : p.k_bias, p.eps, vectors);
    if (p.rotary_dims) {
      const int64_t angles = int64_t{place.position} * (p.rotary_dims / 2);
      rotate_head(x, p.cos + angles, p.sin + angles, p.rotary_dims / 8);
    }
  }
  if (part == 0) return store_query(p, head_row, x, vectors);
  const int64_t cached =
      (int64_t{place.page} * p.heads + head) * kPagePositions + place.position % kPagePositions;
  store_cached<kKind>(part == 1 ? p.k_pages : p.v_pages, part == 1 ? p.k_scales : p.v_scales,
                      cached, p.head_dim, x, vectors);
}

}  // namespace tgv::cuda
