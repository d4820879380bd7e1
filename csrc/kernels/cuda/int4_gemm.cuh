// What      y[m, n] = f(x[m, k] W^T + bias) for an int4 W: prompts, and decode batches beyond 8.
//
// Math      W's fragments become f16 in registers: 16 + q or 256 + q by one AND-OR (int4_gemv.cuh),
// less the same offset plus the zero point (exact), times the scale (the one rounding). So
// accumulators live across groups, and the tensor core sees an ordinary f16 matrix.
//
// Tensors   Int4GemmParams (int4_gemm.h); weights, scales and zeros as int4_gemv packs them.
//
// Threads   gemm.cuh, with 128 rows x 64 tokens (m <= 64) or x 128. A step is 64 columns: x, packed
// weights (512 contiguous bytes per 16 rows), scales and zeros all arrive by cp.async, so that as
// many bytes are under way as the stages hold: with few tokens reading the weights is what takes
// time. Two warps unpack the same rows for the two halves of the tokens: 20 operations for
// 4 (64 tokens) or 8 products of the tensor core.
//
// Traffic   int4_gemm_bytes, weights as often as there are tiles of tokens, x once per 128 rows.
//
// Limits    int4_gemm_why_not: group 32/64/128, any m, n, k; 91 or 84 KB of shared memory.
//
// Numerics  Weights rounded to f16 once; fp32 sums (gemm.cuh). Not bit for bit what int4_gemv
// gives, which rounds no weight.
//
// Oracle    Double precision over the rounded weights, csrc/tests/int4_gemm_test.cc.
#pragma once

#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/int4_gemm.h"

namespace tgv::cuda {

// A row pair's scale, twice in a word, and the offset plus its zero point likewise.
struct Int4Row {
  uint32_t scale, offset;
};

__device__ __forceinline__ uint32_t low_half_twice(uint32_t word) {
  return (word & 0xffffu) * 0x10001u;
}
__device__ __forceinline__ uint32_t high_half_twice(uint32_t word) {
  return (word >> 16) * 0x10001u;
}

// One packed word as an A fragment: registers 0 and 2 are of row g, 1 and 3 of row g + 8.
__device__ __forceinline__ void dequantise(uint32_t (&a)[4], uint32_t word, Int4Row upper,
                                           Int4Row lower) {
  constexpr uint32_t kUpper = 0x03C003C0u, kLower = 0x003C003Cu;  // bits 6-9 and 2-5 of each half
  constexpr uint32_t k16 = 0x4C004C00u, k256 = 0x5C005C00u;
  const uint32_t rotated = rotate_right_8(word);
  a[0] = half2_multiply(half2_subtract(lop3<0xEA>(word, kUpper, k16), upper.offset), upper.scale);
  a[1] = half2_multiply(half2_subtract(lop3<0xEA>(word, kLower, k256), lower.offset), lower.scale);
  a[2] =
      half2_multiply(half2_subtract(lop3<0xEA>(rotated, kUpper, k16), upper.offset), upper.scale);
  a[3] =
      half2_multiply(half2_subtract(lop3<0xEA>(rotated, kLower, k256), lower.offset), lower.scale);
}

template <int kGroup, int kTokens, bool kAsymmetric>
struct Int4Tile : TensorTile<kTokens> {
  using Base = TensorTile<kTokens>;
  using Params = Int4GemmParams;
  using Element = HalfElement;
  static constexpr int kStages = int4_gemm_stages(kTokens);
  static constexpr int kStageBytes = int4_gemm_stage_bytes(kTokens);
  static constexpr int kGroups = kGroup == 32 ? 2 : 1;  // in a step
  static constexpr int kWeights = Base::kActivationBytes;
  static constexpr int kScales = kWeights + kInt4GemmWeightBytes;
  static constexpr int kZeros = kScales + kInt4GemmScaleBytes;
  static constexpr int kRowTiles = kGemmRows / kInt4GemvTileRows;

  static __device__ __forceinline__ float row_scale(const Params&, int64_t) { return 1.0f; }

  // Eight pairs of one group are two chunks; the groups of a step are neighbours.
  static __device__ __forceinline__ void copy_groups(unsigned char* to, const uint32_t* from,
                                                     int item, int row_tiles, int first_row_tile,
                                                     int groups, int step) {
    constexpr int kChunks = kGroups * 2;
    const int row_tile = min(first_row_tile + item / kChunks, row_tiles - 1);
    const int group = kGroup == 128 ? step / 2 : step * kGroups;
    copy_async_16(to + item * 16,
                  from + (int64_t{row_tile} * groups + group) * 8 + item % kChunks * 4);
  }

  static __device__ __forceinline__ void copy(unsigned char* stage, const Params& p,
                                              const GemmWork& w, int row_tile, int token_tile,
                                              int step) {
    copy_rows<kTokens, SwizzleHalves>(stage, static_cast<const uint16_t*>(p.x), p.m, p.k,
                                      int64_t{token_tile} * kTokens, int64_t{step} * 64);
    const int thread = static_cast<int>(threadIdx.x);
    // Beyond the last row the last one is read again: its products are never written.
    const int row_tiles = static_cast<int>((p.n + kInt4GemvTileRows - 1) / kInt4GemvTileRows);
    const int mine = min(row_tile * kRowTiles + thread / 32, row_tiles - 1);
    copy_async_16(stage + kWeights + thread * 16,
                  p.weights + ((int64_t{mine} * w.steps + step) * 32 + thread % 32) * 4);
    constexpr int kItems = kRowTiles * kGroups * 2;
    const int groups = kGroup == 128 ? w.steps / 2 : w.steps * kGroups;
    if (thread < kItems) {
      copy_groups(stage + kScales, p.scales, thread, row_tiles, row_tile * kRowTiles, groups, step);
    } else if (kAsymmetric && thread >= 64 && thread < 64 + kItems) {
      copy_groups(stage + kZeros, p.zeros, thread - 64, row_tiles, row_tile * kRowTiles, groups,
                  step);
    }
  }

  // Scales and offsets of rows g and g + 8 of a row tile.
  static __device__ __forceinline__ void load_rows(Int4Row& upper, Int4Row& lower,
                                                   const unsigned char* stage, int row_tile,
                                                   int group) {
    const int at = ((row_tile * kGroups + group) * 8 + (threadIdx.x >> 2 & 7)) * 4;
    const uint32_t scales = *reinterpret_cast<const uint32_t*>(stage + kScales + at);
    upper.scale = low_half_twice(scales);
    lower.scale = high_half_twice(scales);
    if (kAsymmetric) {
      const uint32_t zeros = *reinterpret_cast<const uint32_t*>(stage + kZeros + at);
      upper.offset = half2_subtract(low_half_twice(zeros), 0xCC00CC00u);   // + 16
      lower.offset = half2_subtract(high_half_twice(zeros), 0xDC00DC00u);  // + 256
    } else {
      upper.offset = 0x4E004E00u;  // 16 + 8
      lower.offset = 0x5C205C20u;  // 256 + 8
    }
  }

  static __device__ __forceinline__ void multiply(
      float (&sums)[Base::kThreadRows * Base::kThreadTokens], const unsigned char* stage) {
    const int lane = threadIdx.x & 31, row_tile = Base::warp_row(threadIdx.x) / kInt4GemvTileRows;
    uint32_t words[2][4];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const uint4 v =
          *reinterpret_cast<const uint4*>(stage + kWeights + ((row_tile + r) * 32 + lane) * 16);
      words[r][0] = v.x;
      words[r][1] = v.y;
      words[r][2] = v.z;
      words[r][3] = v.w;
    }
    Int4Row upper[2], lower[2];
#pragma unroll
    for (int half_step = 0; half_step < 2; ++half_step) {
      uint32_t a[2][2][4];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        if (half_step < kGroups) load_rows(upper[r], lower[r], stage, row_tile + r, half_step);
        dequantise(a[r][0], words[r][half_step * 2], upper[r], lower[r]);
        dequantise(a[r][1], words[r][half_step * 2 + 1], upper[r], lower[r]);
      }
      Base::template multiply_32<Element>(sums, a, stage, half_step);
    }
  }
};

// One block a multiprocessor: 64 or 128 registers are sums, and the stages, not other blocks, hide
// the weights' latency.
template <int kGroup, int kTokens, bool kAsymmetric>
__global__ void __launch_bounds__(kGemmThreads, 1)
    int4_gemm(const Int4GemmParams p, const GemmWork w) {
  gemm<Int4Tile<kGroup, kTokens, kAsymmetric>>(p, w);
}

}  // namespace tgv::cuda
