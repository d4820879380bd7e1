// What      y[m, n] = f(x[m, k] W[n, k]^T + bias) in f32 throughout, for the exact mode: no tensor
// core, which would round its operands to 11 bits.
//
// Math      One fused multiply-add a product, in ascending k within a segment (gemm.cuh).
//
// Tensors   FloatGemmParams (float_gemm.h); W row-major, as it is in the checkpoint.
//
// Threads   gemm.cuh, with 128 rows x 16 tokens (m <= 16) or x 64; a step is 32 columns. A thread
// sums 8 rows, 16 apart, x 1 or 4 tokens: four columns of each in one 16-byte load, for 32 or
// 128 fused multiply-adds in 9 or 12 loads.
//
// Traffic   float_gemm_bytes, weights as often as there are tiles of tokens, x once per 128 rows.
//
// Limits    float_gemm_why_not: any m, n, k; 90 or 96 KB of shared memory.
//
// Numerics  fp32, no reordering: the same bits on every GPU, and under the emulation, as long as
// gelu is off (exp2 is the device's own).
//
// Oracle    Double precision, csrc/tests/float_gemm_test.cc.
#pragma once

#include "kernels/cuda/float_gemm.h"
#include "kernels/cuda/gemm.cuh"

namespace tgv::cuda {

template <int kTokens>
struct FloatTile {
  using Params = FloatGemmParams;
  using Element = FloatElement;
  static constexpr int kTokensPerTile = kTokens;
  static constexpr int kStages = float_gemm_stages(kTokens);
  static constexpr int kStageBytes = float_gemm_stage_bytes(kTokens);
  static constexpr int kThreadRows = kGemmRows / 16;
  static constexpr int kThreadTokens = kTokens / 16;
  static constexpr int kWeights = kTokens * 128;

  static __device__ __forceinline__ int row(int thread, int j) { return j * 16 + thread % 16; }
  static __device__ __forceinline__ int token(int thread, int c) { return c * 16 + thread / 16; }
  static __device__ __forceinline__ constexpr int index(int j, int c) {
    return j * kThreadTokens + c;
  }

  static __device__ __forceinline__ void copy(unsigned char* stage, const Params& p,
                                              const GemmWork&, int row_tile, int token_tile,
                                              int step) {
    const int64_t column = int64_t{step} * kFloatGemmColumns;
    copy_rows<kTokens, SwizzleChunks>(stage, static_cast<const uint32_t*>(p.x), p.m, p.k,
                                      int64_t{token_tile} * kTokens, column);
    copy_rows<kGemmRows, SwizzleChunks>(stage + kWeights,
                                        reinterpret_cast<const uint32_t*>(p.weights), p.n, p.k,
                                        int64_t{row_tile} * kGemmRows, column);
  }

  static __device__ __forceinline__ float row_scale(const Params&, int64_t) { return 1.0f; }

  static __device__ __forceinline__ float4 load(const unsigned char* rows, int row, int chunk) {
    return *reinterpret_cast<const float4*>(rows + row * 128 +
                                            SwizzleChunks::chunk(row, chunk) * 16);
  }

  static __device__ __forceinline__ void multiply(float (&sums)[kThreadRows * kThreadTokens],
                                                  const unsigned char* stage) {
    const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
    for (int chunk = 0; chunk < 8; ++chunk) {
      float4 x[kThreadTokens];
#pragma unroll
      for (int c = 0; c < kThreadTokens; ++c) x[c] = load(stage, token(thread, c), chunk);
#pragma unroll
      for (int j = 0; j < kThreadRows; ++j) {
        const float4 w = load(stage + kWeights, row(thread, j), chunk);
#pragma unroll
        for (int c = 0; c < kThreadTokens; ++c) {
          float& sum = sums[index(j, c)];
          sum = fmaf(w.x, x[c].x, sum);
          sum = fmaf(w.y, x[c].y, sum);
          sum = fmaf(w.z, x[c].z, sum);
          sum = fmaf(w.w, x[c].w, sum);
        }
      }
    }
  }
};

template <int kTokens>
__global__ void __launch_bounds__(kGemmThreads, 1)
    float_gemm(const FloatGemmParams p, const GemmWork w) {
  gemm<FloatTile<kTokens>>(p, w);
}

}  // namespace tgv::cuda
