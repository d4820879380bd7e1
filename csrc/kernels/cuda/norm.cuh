// What      The sum of a layer's branches, added to the residual stream, and the norm of the next
//           layer over it, in one pass: what lies between two layers of a decoder.
//
// Math      norm.h. The variance is the mean of (x - mean)^2 over numbers that lie in registers: no
//           cancellation where |mean| is large.
//
// Tensors   NormParams (norm.h): [T, C] row by row.
//
// Threads   One block per row. A thread keeps every kThreads-th vector of four floats of the row in
//           registers from the first load to the last store; each of the (at most three) sums
//           over the row is a shuffle tree in every warp, whose results meet in shared memory.
//           Each sum has its own slots there, so one barrier a sum is enough. Everything that does
//           not depend on a sum is loaded before it, so that a row pays for memory once.
//
// Traffic   Every tensor once, 16 bytes a lane (y: 8); norm_bytes counts it.
//
// Limits    norm_why_not: C a multiple of 4 up to 8192.
//
// Numerics  fp32 throughout; y is rounded to f16 once (beyond 65504 it is infinity), y_float not. A
// sum adds the
//           thread's numbers in order, then the tree, then the warps in order: it depends on C
//           alone, so a row of the results depends on the same row of the inputs alone. NaN and
//           infinity spoil their own row.
//
// Oracle    Double precision, csrc/tests/cuda_norm_test.cc.
#pragma once

#include "kernels/cuda/device/dependent.cuh"
#include "kernels/cuda/device/platform.cuh"
#include "kernels/cuda/device/round.cuh"
#include "kernels/cuda/norm.h"

namespace tgv::cuda {

// One thread's share of a row: vector threadIdx.x + i * kThreads of it is of[i].
template <int kThreads, int kVectors>
struct NormShare {
  float4 of[kVectors];
};

template <int kThreads>
__device__ __forceinline__ int norm_vector(int i) {
  return static_cast<int>(threadIdx.x) + i * kThreads;
}

// Zeros beyond the row.
template <int kThreads, int kVectors>
__device__ __forceinline__ NormShare<kThreads, kVectors> load_share(const float* row, int vectors) {
  NormShare<kThreads, kVectors> share;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int v = norm_vector<kThreads>(i);
    share.of[i] =
        v < vectors ? reinterpret_cast<const float4*>(row)[v] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  }
  return share;
}

// The sum of (x - middle)^2 of a vector.
__device__ __forceinline__ float squares_about(float4 x, float middle) {
  const float a = x.x - middle, b = x.y - middle, c = x.z - middle, d = x.w - middle;
  return fmaf(a, a, b * b) + fmaf(c, c, d * d);
}

// The same total in every thread. `slots` (one per warp) must not have been used by this block.
template <int kThreads>
__device__ __forceinline__ float block_sum(float value, float* slots) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) value += __shfl_xor_sync(0xffffffffu, value, d);
  if ((threadIdx.x & 31) == 0) slots[threadIdx.x >> 5] = value;
  __syncthreads();
  float total = 0.0f;
#pragma unroll
  for (int w = 0; w < kThreads / 32; ++w) total += slots[w];
  return total;
}

// The sum of (x - middle)^2 over the row.
template <int kThreads, int kVectors>
__device__ __forceinline__ float row_squares(const NormShare<kThreads, kVectors>& x, int vectors,
                                             float middle, float* slots) {
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    if (norm_vector<kThreads>(i) < vectors) squares += squares_about(x.of[i], middle);
  }
  return block_sum<kThreads>(squares, slots);
}

template <int kThreads, int kVectors>
__device__ __forceinline__ float row_sum(const NormShare<kThreads, kVectors>& x, float* slots) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    sum += (x.of[i].x + x.of[i].y) + (x.of[i].z + x.of[i].w);
  }
  return block_sum<kThreads>(sum, slots);
}

__device__ __forceinline__ float inverse_root(float squares, float width, float eps) {
  return 1.0f / sqrtf(squares / width + eps);
}

// x + (attention * scale * weight + mlp); without weight the middle term is attention.
template <int kThreads, int kVectors>
__device__ __forceinline__ void add_branches(NormShare<kThreads, kVectors>& x, const NormParams& p,
                                             int64_t offset, int vectors, float* slots) {
  auto attention = load_share<kThreads, kVectors>(p.attention + offset, vectors);
  const auto mlp = load_share<kThreads, kVectors>(p.mlp + offset, vectors);
  if (p.rms_weight) {
    const auto weight = load_share<kThreads, kVectors>(p.rms_weight, vectors);
    const float scale = inverse_root(row_squares(attention, vectors, 0.0f, slots),
                                     static_cast<float>(p.width), p.rms_eps);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      attention.of[i].x *= scale * weight.of[i].x;
      attention.of[i].y *= scale * weight.of[i].y;
      attention.of[i].z *= scale * weight.of[i].z;
      attention.of[i].w *= scale * weight.of[i].w;
    }
  }
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    x.of[i].x += attention.of[i].x + mlp.of[i].x;
    x.of[i].y += attention.of[i].y + mlp.of[i].y;
    x.of[i].z += attention.of[i].z + mlp.of[i].z;
    x.of[i].w += attention.of[i].w + mlp.of[i].w;
  }
}

template <int kThreads, int kVectors>
__device__ __forceinline__ void store_normed(const NormParams& p, int64_t offset,
                                             const NormShare<kThreads, kVectors>& x,
                                             const NormShare<kThreads, kVectors>& weight,
                                             const NormShare<kThreads, kVectors>& bias, int vectors,
                                             float mean, float scale) {
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int v = norm_vector<kThreads>(i);
    if (v >= vectors) continue;
    const float4 a = x.of[i], w = weight.of[i], b = bias.of[i];
    const float4 y =
        make_float4(fmaf((a.x - mean) * scale, w.x, b.x), fmaf((a.y - mean) * scale, w.y, b.y),
                    fmaf((a.z - mean) * scale, w.z, b.z), fmaf((a.w - mean) * scale, w.w, b.w));
    if (p.y) {
      reinterpret_cast<uint2*>(p.y + offset)[v] =
          uint2{floats_to_half2(y.x, y.y), floats_to_half2(y.z, y.w)};
    } else {
      reinterpret_cast<float4*>(p.y_float + offset)[v] = y;
    }
  }
}

// [width] of weights, which come from far: nothing of a token's weights stays in the cache until
// the next token.
template <int kThreads, int kVectors>
__device__ __forceinline__ void prefetch_vector(const float* weights, int64_t width) {
  static_assert(kThreads * 32 >= kThreads * kVectors * 4, "a line for each thread is enough");
  const int at = static_cast<int>(threadIdx.x) * 32;
  if (weights && at < width) prefetch_line(weights + at);
}

template <int kThreads, int kVectors>
__global__ void __launch_bounds__(kThreads) norm_rows(const NormParams p) {
  prefetch_vector<kThreads, kVectors>(p.weight, p.width);
  prefetch_vector<kThreads, kVectors>(p.bias, p.width);
  wait_for_previous();
  TGV_SHARED(float, slots, [3][kThreads / 32]);
  const int64_t offset = int64_t{blockIdx.x} * p.width;  // of the results
  const int64_t from = p.source_rows ? p.source_rows[blockIdx.x] * p.width : offset;
  const int vectors = static_cast<int>(p.width / 4);
  auto x = load_share<kThreads, kVectors>(p.residual + from, vectors);
  if (p.attention) add_branches(x, p, from, vectors, slots[0]);
  if (p.sum) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int v = norm_vector<kThreads>(i);
      if (v < vectors) reinterpret_cast<float4*>(p.sum + offset)[v] = x.of[i];
    }
  }
  if (!p.y && !p.y_float) return;
  const auto weight = load_share<kThreads, kVectors>(p.weight, vectors);
  const auto bias = load_share<kThreads, kVectors>(p.bias, p.bias ? vectors : 0);
  const float width = static_cast<float>(p.width);
  const float mean = p.kind == NormKind::kLayer ? row_sum(x, slots[1]) / width : 0.0f;
  const float scale = inverse_root(row_squares(x, vectors, mean, slots[2]), width, p.eps);
  store_normed(p, offset, x, weight, bias, vectors, mean, scale);
}

}  // namespace tgv::cuda
