// int4 matrix times many vectors (a prompt, or a decode batch beyond 8): the problem and when the
// kernel can take it. Host code only; the kernel is int4_gemm.cuh.
#pragma once

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/int4_gemv.h"

namespace tgv::cuda {

// y = x W^T + bias as in GemmProblem; elements are f16 and W = (q - zero) * scale, rounded to f16
// once. The operands packed for int4_gemv serve as they are: one copy of the weights in memory.
struct Int4GemmParams : GemmProblem {
  int group = 0;  // columns that share a scale: 32, 64 or 128

  // int4_gemv_pack_weights and _pack_groups; 16-byte aligned
  const uint32_t* weights = nullptr;
  const uint32_t* scales = nullptr;
  const uint32_t* zeros = nullptr;  // whole numbers 0..15; null: symmetric, every zero point is 8
};

inline constexpr int kInt4GemmWeightBytes = kGemmRows * 64 / 2;  // of a step
inline constexpr int kInt4GemmScaleBytes = kGemmRows * 2 * 2;    // at most 2 groups in a step
constexpr int int4_gemm_stages(int tokens) { return tokens == 64 ? 7 : 4; }
constexpr int int4_gemm_stage_bytes(int tokens) {
  return tokens * 128 + kInt4GemmWeightBytes + 2 * kInt4GemmScaleBytes;
}

GemmWork int4_gemm_work(const Int4GemmParams& p, int64_t blocks);
int64_t int4_gemm_shared_bytes(const Int4GemmParams& p);
int64_t int4_gemm_workspace_bytes(const Int4GemmParams& p, int64_t blocks);

// Bytes the kernel must move: weights, scales, zeros, x, bias and y, each once.
int64_t int4_gemm_bytes(const Int4GemmParams& p);

// Empty if the kernel can take the problem in this many blocks of this much shared memory,
// otherwise the reason.
std::string int4_gemm_why_not(const Int4GemmParams& p, int64_t shared_bytes_per_block,
                              int64_t blocks);

}  // namespace tgv::cuda
