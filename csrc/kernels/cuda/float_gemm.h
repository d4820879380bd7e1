// f32 matrix times vectors, without tensor cores: the products of the exact mode. Host code only;
// the kernel is float_gemm.cuh.
#pragma once

#include "kernels/cuda/gemm.h"

namespace tgv::cuda {

// y = x W^T + bias as in GemmProblem; elements are f32 (so y_is_element is not used), W row-major.
struct FloatGemmParams : GemmProblem {
  const float* weights = nullptr;  // [n, k]
};

inline constexpr int kFloatGemmColumns = 32;                   // of a step: rows of 128 bytes
inline constexpr int kFloatGemmWeightBytes = kGemmRows * 128;  // of a step
constexpr int float_gemm_stages(int tokens) { return tokens == 16 ? 5 : 4; }
constexpr int float_gemm_stage_bytes(int tokens) { return tokens * 128 + kFloatGemmWeightBytes; }

GemmWork float_gemm_work(const FloatGemmParams& p, int64_t blocks);
int64_t float_gemm_shared_bytes(const FloatGemmParams& p);
int64_t float_gemm_workspace_bytes(const FloatGemmParams& p, int64_t blocks);

// Bytes the kernel must move: weights, x, bias and y, each once.
int64_t float_gemm_bytes(const FloatGemmParams& p);

// Empty if the kernel can take the problem in this many blocks of this much shared memory,
// otherwise the reason.
std::string float_gemm_why_not(const FloatGemmParams& p, int64_t shared_bytes_per_block,
                               int64_t blocks);

}  // namespace tgv::cuda
