// int8 matrix times vectors: the problem, its packed weights, and when the kernel can take it. Host
// code only; the kernel is int8_gemm.cuh.
#pragma once

#include "kernels/cuda/gemm.h"

namespace tgv::cuda {

// y = x W^T + bias as in GemmProblem; elements are f16 and W[n, k] = q[n, k] * row_scales[n].
struct Int8GemmParams : GemmProblem {
  // int8_gemm_pack_weights: [ceil(n / 16), ceil(k / 64)] tiles of 1 KB, 16-byte aligned
  const uint32_t* weights = nullptr;
  const float* row_scales = nullptr;  // [n]
};

inline constexpr int kInt8GemmTileRows = 16;
inline constexpr int kInt8GemmTileColumns = 64;
inline constexpr int kInt8GemmWeightBytes = kGemmRows * 64;  // of a step
constexpr int int8_gemm_stages(int tokens) { return tokens == 64 ? 6 : 4; }
constexpr int int8_gemm_stage_bytes(int tokens) { return tokens * 128 + kInt8GemmWeightBytes; }

GemmWork int8_gemm_work(const Int8GemmParams& p, int64_t blocks);
int64_t int8_gemm_shared_bytes(const Int8GemmParams& p);
int64_t int8_gemm_workspace_bytes(const Int8GemmParams& p, int64_t blocks);

// Bytes the kernel must move: weights, scales, x, bias and y, each once.
int64_t int8_gemm_bytes(const Int8GemmParams& p);

// Empty if the kernel can take the problem in this many blocks of this much shared memory,
// otherwise the reason.
std::string int8_gemm_why_not(const Int8GemmParams& p, int64_t shared_bytes_per_block,
                              int64_t blocks);

// A tile is 16 rows x 64 columns in 2 x 32 x 4 words: the four words of lane 4g+t in half h are the
// eight columns 32h + 8t... of row g and of row g + 8: four of either row, then the other four. So
// a lane's A fragments of two products of 16 columns are one 16-byte load, in the order of columns
// that half_gemm has. Missing rows and columns are 0.
//   q: [n, k]
int64_t int8_gemm_weight_words(int64_t n, int64_t k);
void int8_gemm_pack_weights(uint32_t* packed, const int8_t* q, int64_t n, int64_t k);

}  // namespace tgv::cuda
