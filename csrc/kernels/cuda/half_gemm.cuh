// What      y[m, n] = f(x[m, k] W^T + bias) for an f16 or bf16 W and x.
//
// Math      W's fragments go to the tensor core as they are. A row may have a scale, by which its
// sums are multiplied at the end: so bf16 weights serve f16 activations (half_gemm.h).
//
// Tensors   HalfGemmParams (half_gemm.h) and the packing there. Packed rather than row-major, so
// that a fragment is one 16-byte load without bank conflicts, and a step of 16 rows 2 KB in a row
// whatever k is.
//
// Threads   gemm.cuh, with 128 rows x 64 tokens (m <= 64) or x 128; a step is 64 columns.
//
// Traffic   half_gemm_bytes, weights as often as there are tiles of tokens, x once per 128 rows.
//
// Limits    half_gemm_why_not: any m, n, k; 96 KB of shared memory. m is any, but below 9 most of
// the tensor core's work is on rows of zeros.
//
// Numerics  Exact products, fp32 sums (gemm.cuh); a row's scale and bias are one FMA.
//
// Oracle    Double precision, csrc/tests/half_gemm_test.cc.
#pragma once

#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/half_gemm.h"

namespace tgv::cuda {

template <class Kind, int kTokens>
struct HalfTile : TensorTile<kTokens> {
  using Base = TensorTile<kTokens>;
  using Params = HalfGemmParams;
  using Element = Kind;
  static constexpr int kStages = half_gemm_stages(kTokens);
  static constexpr int kStageBytes = half_gemm_stage_bytes(kTokens);
  static constexpr int kWeights = Base::kActivationBytes;
  static constexpr int kRowTiles = kGemmRows / kHalfGemmTileRows;
  static constexpr int kRowTileBytes = kHalfGemmWeightBytes / kRowTiles;

  static __device__ __forceinline__ float row_scale(const Params& p, int64_t row) {
    return p.row_scales ? p.row_scales[row] : 1.0f;
  }

  static __device__ __forceinline__ void copy(unsigned char* stage, const Params& p,
                                              const GemmWork& w, int row_tile, int token_tile,
                                              int step) {
    copy_rows<kTokens, SwizzleHalves>(stage, static_cast<const uint16_t*>(p.x), p.m, p.k,
                                      int64_t{token_tile} * kTokens, int64_t{step} * 64);
    // Beyond the last row the last one is read again: its products are never written.
    const int row_tiles = static_cast<int>((p.n + kHalfGemmTileRows - 1) / kHalfGemmTileRows);
    const int mine = min(row_tile * kRowTiles + static_cast<int>(threadIdx.x) / 32, row_tiles - 1);
    const uint32_t* from =
        p.weights + (int64_t{mine} * w.steps + step) * (kRowTileBytes / 4) + threadIdx.x % 32 * 4;
    unsigned char* to = stage + kWeights + threadIdx.x / 32 * kRowTileBytes + threadIdx.x % 32 * 16;
#pragma unroll
    for (int i = 0; i < 4; ++i) copy_async_16(to + i * 512, from + i * 128);
  }

  static __device__ __forceinline__ void multiply(
      float (&sums)[Base::kThreadRows * Base::kThreadTokens], const unsigned char* stage) {
    const int row_tile = Base::warp_row(threadIdx.x) / kHalfGemmTileRows;
    const unsigned char* weights =
        stage + kWeights + row_tile * kRowTileBytes + (threadIdx.x & 31) * 16;
#pragma unroll
    for (int half_step = 0; half_step < 2; ++half_step) {
      uint32_t a[2][2][4];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int s = 0; s < 2; ++s) {
          const uint4 v = *reinterpret_cast<const uint4*>(weights + r * kRowTileBytes +
                                                          (half_step * 2 + s) * 512);
          a[r][s][0] = v.x;
          a[r][s][1] = v.y;
          a[r][s][2] = v.z;
          a[r][s][3] = v.w;
        }
      }
      Base::template multiply_32<Element>(sums, a, stage, half_step);
    }
  }
};

template <class Kind, int kTokens>
__global__ void __launch_bounds__(kGemmThreads, 1)
    half_gemm(const HalfGemmParams p, const GemmWork w) {
  gemm<HalfTile<Kind, kTokens>>(p, w);
}

}  // namespace tgv::cuda
