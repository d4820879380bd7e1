// What      y[batch, n] = f(x[batch, k] W^T + bias) for an int4 W and a batch of 1..8: the weight
// phases of decoding.
//
// Math      A tensor core multiplies 16 rows of W by 8 columns of x. A nibble q becomes an f16 by
// one AND-OR with an
//           exponent: 16 + q (rows 0-7) or 256 + q (rows 8-15, from which 256 is subtracted,
//           exactly). What is left of these offsets and the zero point leave with the sum S of x
//           over the group:
//               y += scale * (sum (offset + q) x - (offset + zero) S)          offset 16 or 0
//           so that scales act on the four fp32 accumulators once per group, and zero points cost
//           nothing more.
//
// Tensors   Int4GemvParams (int4_gemv.h) and the packing there. One tile of 16 rows x 64 columns is
// 512 contiguous
//           bytes, a row of tiles one contiguous stream.
//
// Threads   Blocks take row tiles in turn; the 8 warps of a block take the column tiles of a row
// tile in turn (pairs of
//           tiles for groups of 128, so that a group stays with one warp) and their sums meet in
//           shared memory, added in warp order. x and its group sums are staged in shared memory
//           once per block. With a batch of 1 all eight columns hold the same x: loads are
//           broadcasts and nothing has to be cleared. Four blocks a multiprocessor (at most 64
//           registers); left to itself the compiler takes 40 for sm_80 and spills.
//
// Traffic   Every packed word once, 16 bytes a lane, past L1; x once per block. int4_gemv_bytes
// counts it.
//
// Limits    int4_gemv_why_not: group 32/64/128, and x with its sums must fit in a block's shared
// memory.
//
// Numerics  fp32 accumulation. An output depends on its own row of x alone, in a fixed order of k:
// never on the batch or
//           on the number of blocks. Products are exact; the offset of 16 costs about four bits of
//           a group's sum.
//
// Oracle    Double precision over the unpacked codes, csrc/tests/int4_gemv_test.cc.
#pragma once

#include "kernels/cuda/device/bits.cuh"
#include "kernels/cuda/device/convert.cuh"
#include "kernels/cuda/device/dependent.cuh"
#include "kernels/cuda/device/elements.cuh"
#include "kernels/cuda/device/load.cuh"
#include "kernels/cuda/device/mma.cuh"
#include "kernels/cuda/gelu.cuh"
#include "kernels/cuda/int4_gemv.h"

namespace tgv::cuda {

// Eight neighbours x[row, column...] as four words; zeros beyond k. One load when the row allows
// it.
__device__ __forceinline__ uint4 load_eight(const Half* x, int64_t row, int64_t column, int64_t k) {
  const Half* p = x + row * k + column;
  if (k % 8 == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0 && column + 8 <= k) {
    return *reinterpret_cast<const uint4*>(p);
  }
  uint32_t w[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t low = column + 2 * i < k ? p[2 * i].bits : 0u;
    const uint32_t high = column + 2 * i + 1 < k ? p[2 * i + 1].bits : 0u;
    w[i] = low | high << 16;
  }
  return make_uint4(w[0], w[1], w[2], w[3]);
}

__device__ __forceinline__ float sum_eight(uint4 v) {
  const float2 a = half2_to_float2(v.x), b = half2_to_float2(v.y);
  const float2 c = half2_to_float2(v.z), d = half2_to_float2(v.w);
  return ((a.x + a.y) + (b.x + b.y)) + ((c.x + c.y) + (d.x + d.y));
}

// Copies x into `staged` [batch][stride] and its group sums into `sums` ([groups][8], or [groups]
// for one row).
template <int kGroup, bool kSingle>
__device__ __forceinline__ void stage_activations(const Int4GemvParams& p, Half* staged, int stride,
                                                  int padded_k, float* sums) {
  const int lane = threadIdx.x & 31;
  const int chunks_per_row = padded_k / 8, chunks = p.batch * chunks_per_row;
  if (!kSingle) {  // columns beyond the batch are computed too, from row 0, and need a defined sum
    for (int i = threadIdx.x; i < padded_k / kGroup * 8; i += kInt4GemvWarps * 32) sums[i] = 0.0f;
    __syncthreads();
  }
  // Whole warps stay in the loop together: the sums are shuffled among the kGroup / 8 lanes of a
  // group.
  for (int first = threadIdx.x - lane; first < chunks; first += kInt4GemvWarps * 32) {
    const int chunk = first + lane;
    const bool valid = chunk < chunks;
    const int row = valid ? chunk / chunks_per_row : 0;
    const int column = valid ? chunk % chunks_per_row * 8 : 0;
    const uint4 v = valid ? load_eight(p.x, row, column, p.k) : make_uint4(0, 0, 0, 0);
    if (valid) *reinterpret_cast<uint4*>(staged + row * stride + column) = v;
    float sum = sum_eight(v);
#pragma unroll
    for (int d = 1; d < kGroup / 8; d *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    if (valid && lane % (kGroup / 8) == 0) {
      sums[kSingle ? column / kGroup : column / kGroup * 8 + row] = sum;
    }
  }
  __syncthreads();
}

// The A fragment of one packed word: registers 0 and 2 hold 16 + q, registers 1 and 3 exactly q.
__device__ __forceinline__ void unpack(uint32_t (&a)[4], uint32_t word) {
  constexpr uint32_t kUpper = 0x03C003C0u, kLower = 0x003C003Cu;  // bits 6-9 and 2-5 of each half
  constexpr uint32_t k16 = 0x4C004C00u, k256 = 0x5C005C00u;
  const uint32_t rotated = rotate_right_8(word);
  a[0] = lop3<0xEA>(word, kUpper, k16);
  a[1] = half2_subtract(lop3<0xEA>(word, kLower, k256), k256);
  a[2] = lop3<0xEA>(rotated, kUpper, k16);
  a[3] = half2_subtract(lop3<0xEA>(rotated, kLower, k256), k256);
}

// Adds a finished group: c holds sums of (offset + q) x for rows g, g, g+8, g+8 and columns 2t,
// 2t+1.
template <bool kAsymmetric>
__device__ __forceinline__ void finish_group(float (&total)[4], float (&c)[4], float2 sum,
                                             uint32_t scales, uint32_t zeros) {
  const float2 s = half2_to_float2(scales);
  const float2 z = kAsymmetric ? half2_to_float2(zeros) : make_float2(8.0f, 8.0f);
  total[0] = fmaf(s.x, fmaf(-(16.0f + z.x), sum.x, c[0]), total[0]);
  total[1] = fmaf(s.x, fmaf(-(16.0f + z.x), sum.y, c[1]), total[1]);
  total[2] = fmaf(s.y, fmaf(-z.y, sum.x, c[2]), total[2]);
  total[3] = fmaf(s.y, fmaf(-z.y, sum.y, c[3]), total[3]);
#pragma unroll
  for (int i = 0; i < 4; ++i) c[i] = 0.0f;
}

// This warp's share of one row tile, into total[4] (rows g, g, g+8, g+8; columns 2t, 2t+1).
template <int kGroup, bool kSingle, bool kAsymmetric>
__device__ __forceinline__ void multiply_row_tile(float (&total)[4], const Int4GemvParams& p,
                                                  int64_t row_tile, const Half* staged, int stride,
                                                  int padded_k, const float* sums) {
  constexpr int kTiles = kGroup == 128 ? 2 : 1;  // column tiles a warp takes at once
  constexpr int kStepsPerGroup = kGroup / 16;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const int column_tiles = padded_k / kInt4GemvTileColumns, groups = padded_k / kGroup;
  const int column = kSingle || g >= p.batch ? 0 : g;  // of the batch, for B fragments
  const uint32_t* tiles = p.weights + (row_tile * column_tiles * 32 + lane) * 4;
  const int64_t group0 = row_tile * groups * 8 + g;
  float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};

  for (int tile = warp * kTiles; tile < column_tiles; tile += kInt4GemvWarps * kTiles) {
    uint4 packed[kTiles];
#pragma unroll
    for (int u = 0; u < kTiles; ++u) {
      packed[u] = load_once_16(tiles + static_cast<int64_t>(tile + u) * 128);
    }
#pragma unroll
    for (int u = 0; u < kTiles; ++u) {
      const uint32_t words[4] = {packed[u].x, packed[u].y, packed[u].z, packed[u].w};
      const Half* x = staged + column * stride + (tile + u) * kInt4GemvTileColumns + t * 8;
#pragma unroll
      for (int half_tile = 0; half_tile < 2; ++half_tile) {
        const uint4 b4 = *reinterpret_cast<const uint4*>(x + half_tile * 32);
        const uint32_t b[4] = {b4.x, b4.y, b4.z, b4.w};
#pragma unroll
        for (int s = 0; s < 2; ++s) {
          uint32_t a[4];
          unpack(a, words[half_tile * 2 + s]);
          mma_f16(c, a, b[s * 2], b[s * 2 + 1], c);
          const int step = u * 4 + half_tile * 2 + s;
          if (step % kStepsPerGroup == kStepsPerGroup - 1) {
            const int group = (tile * 4 + step) / kStepsPerGroup;
            const float2 sum = kSingle ? make_float2(sums[group], sums[group])
                                       : *reinterpret_cast<const float2*>(sums + group * 8 + t * 2);
            const int64_t at = group0 + static_cast<int64_t>(group) * 8;
            finish_group<kAsymmetric>(total, c, sum, p.scales[at], kAsymmetric ? p.zeros[at] : 0u);
          }
        }
      }
    }
  }
}

// The weights that this block takes first: they may be on their way while the kernel before makes
// x.
template <int kGroup, bool kAsymmetric>
__device__ __forceinline__ void prefetch_row_tile(const Int4GemvParams& p, int padded_k) {
  const int64_t tile = blockIdx.x;
  if (tile * kInt4GemvTileRows >= p.n) return;
  const int words = padded_k / kInt4GemvTileColumns * 128, scales = padded_k / kGroup * 8;
#pragma unroll 1
  for (int at = threadIdx.x * 32; at < words; at += kInt4GemvWarps * 32 * 32) {
    prefetch_line(p.weights + tile * words + at);
  }
#pragma unroll 1
  for (int at = threadIdx.x * 32; at < scales; at += kInt4GemvWarps * 32 * 32) {
    prefetch_line(p.scales + tile * scales + at);
    if (kAsymmetric) prefetch_line(p.zeros + tile * scales + at);
  }
}

template <int kGroup, bool kSingle, bool kAsymmetric>
__global__ void __launch_bounds__(kInt4GemvWarps * 32, 4) int4_gemv(const Int4GemvParams p) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  constexpr int kUnit = kGroup > kInt4GemvTileColumns ? kGroup : kInt4GemvTileColumns;
  const int padded_k = static_cast<int>((p.k + kUnit - 1) / kUnit) * kUnit;
  const int stride =
      padded_k + 32;  // 64 bytes over a multiple of 128: two rows share the banks without conflict
  TGV_DYNAMIC_SHARED(Half, staged);
  TGV_SHARED(float, partial, [kInt4GemvWarps][16][8]);
  float* sums = reinterpret_cast<float*>(staged + p.batch * stride);
  prefetch_row_tile<kGroup, kAsymmetric>(p, padded_k);
  wait_for_previous();
  stage_activations<kGroup, kSingle>(p, staged, stride, padded_k, sums);

  const int64_t row_tiles = (p.n + kInt4GemvTileRows - 1) / kInt4GemvTileRows;
  for (int64_t row_tile = blockIdx.x; row_tile < row_tiles; row_tile += gridDim.x) {
    float total[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    multiply_row_tile<kGroup, kSingle, kAsymmetric>(total, p, row_tile, staged, stride, padded_k,
                                                    sums);
    partial[warp][g][t * 2] = total[0];
    partial[warp][g][t * 2 + 1] = total[1];
    partial[warp][g + 8][t * 2] = total[2];
    partial[warp][g + 8][t * 2 + 1] = total[3];
    __syncthreads();
    for (int i = threadIdx.x; i < kInt4GemvTileRows * p.batch; i += kInt4GemvWarps * 32) {
      const int r = i % kInt4GemvTileRows, b = i / kInt4GemvTileRows;
      const int64_t row = row_tile * kInt4GemvTileRows + r;
      if (row >= p.n) continue;
      float sum = p.bias ? half_to_float(p.bias[row]) : 0.0f;
      for (int w = 0; w < kInt4GemvWarps; ++w) sum += partial[w][r][b];
      if (p.gelu) sum = gelu_tanh(sum);
      if (p.y_is_half) {
        HalfElement::store(p.y, b * p.n + row, sum);
      } else {
        static_cast<float*>(p.y)[b * p.n + row] = sum;
      }
    }
    __syncthreads();  // partial is written again for the next row tile
  }
}

}  // namespace tgv::cuda
