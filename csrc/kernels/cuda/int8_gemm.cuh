// What      y[m, n] = f(x[m, k] W^T + bias) for an int8 W with a scale for each row.
//
// Math      W's levels become f16 in registers, exactly (convert.cuh); the tensor core sums
// q * x, and a row's scale multiplies the sums at the end. x stays f16: the CPU's product rounds it
// to eight bits, and so differs from this one by that rounding.
//
// Tensors   Int8GemmParams (int8_gemm.h) and the packing there: fragments of two products of 16
// columns are one 16-byte load without bank conflicts, a step of 16 rows 1 KB in a row.
//
// Threads   gemm.cuh, with 128 rows x 64 tokens (m <= 64) or x 128; a step is 64 columns. Two warps
// unpack the same rows for the two halves of the tokens: 5 operations a word of four weights.
//
// Traffic   int8_gemm_bytes, weights as often as there are tiles of tokens, x once per 128 rows.
//
// Limits    int8_gemm_why_not: any m, n, k; 96 KB of shared memory. m is any, but below 9 most of
// the tensor core's work is on rows of zeros.
//
// Numerics  Exact products, fp32 sums (gemm.cuh); a row's scale and bias are one FMA.
//
// Oracle    Double precision, csrc/tests/int8_gemm_test.cc.
#pragma once

#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/int8_gemm.h"

namespace tgv::cuda {

template <int kTokens>
struct Int8Tile : TensorTile<kTokens> {
  using Base = TensorTile<kTokens>;
  using Params = Int8GemmParams;
  using Element = HalfElement;
  static constexpr int kStages = int8_gemm_stages(kTokens);
  static constexpr int kStageBytes = int8_gemm_stage_bytes(kTokens);
  static constexpr int kWeights = Base::kActivationBytes;
  static constexpr int kRowTiles = kGemmRows / kInt8GemmTileRows;
  static constexpr int kRowTileBytes = kInt8GemmWeightBytes / kRowTiles;

  static __device__ __forceinline__ float row_scale(const Params& p, int64_t row) {
    return p.row_scales[row];
  }

  static __device__ __forceinline__ void copy(unsigned char* stage, const Params& p,
                                              const GemmWork& w, int row_tile, int token_tile,
                                              int step) {
    copy_rows<kTokens, SwizzleHalves>(stage, static_cast<const uint16_t*>(p.x), p.m, p.k,
                                      int64_t{token_tile} * kTokens, int64_t{step} * 64);
    // Beyond the last row the last one is read again: its products are never written.
    const int row_tiles = static_cast<int>((p.n + kInt8GemmTileRows - 1) / kInt8GemmTileRows);
    const int mine = min(row_tile * kRowTiles + static_cast<int>(threadIdx.x) / 32, row_tiles - 1);
    const uint32_t* from =
        p.weights + (int64_t{mine} * w.steps + step) * (kRowTileBytes / 4) + threadIdx.x % 32 * 4;
    unsigned char* to = stage + kWeights + threadIdx.x / 32 * kRowTileBytes + threadIdx.x % 32 * 16;
#pragma unroll
    for (int half = 0; half < 2; ++half) copy_async_16(to + half * 512, from + half * 128);
  }

  // Four columns of row g and of row g + 8 as an A fragment.
  static __device__ __forceinline__ void dequantise(uint32_t (&a)[4], uint32_t upper,
                                                    uint32_t lower) {
    const uint2 g = int8x4_to_half4(upper), g8 = int8x4_to_half4(lower);
    a[0] = g.x;
    a[1] = g8.x;
    a[2] = g.y;
    a[3] = g8.y;
  }

  static __device__ __forceinline__ void multiply(
      float (&sums)[Base::kThreadRows * Base::kThreadTokens], const unsigned char* stage) {
    const int row_tile = Base::warp_row(threadIdx.x) / kInt8GemmTileRows;
    const unsigned char* weights =
        stage + kWeights + row_tile * kRowTileBytes + (threadIdx.x & 31) * 16;
#pragma unroll
    for (int half_step = 0; half_step < 2; ++half_step) {
      uint32_t a[2][2][4];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const uint4 v =
            *reinterpret_cast<const uint4*>(weights + r * kRowTileBytes + half_step * 512);
        dequantise(a[r][0], v.x, v.y);
        dequantise(a[r][1], v.z, v.w);
      }
      Base::template multiply_32<Element>(sums, a, stage, half_step);
    }
  }
};

template <int kTokens>
__global__ void __launch_bounds__(kGemmThreads, 1)
    int8_gemm(const Int8GemmParams p, const GemmWork w) {
  gemm<Int8Tile<kTokens>>(p, w);
}

}  // namespace tgv::cuda
