// f16 or bf16 matrix times many vectors: the problem, its packed weights, and when the kernel can
// take it. Host code only; the kernel is half_gemm.cuh.
#pragma once

#include "kernels/cuda/gemm.h"

namespace tgv::cuda {

// y = x W^T + bias as in GemmProblem; elements are f16, or bf16, and W too, each row of it times
// its scale.
struct HalfGemmParams : GemmProblem {
  bool bfloat16 = false;

  // half_gemm_pack_weights: [ceil(n / 16), ceil(k / 64)] tiles of 2 KB, 16-byte aligned
  const uint32_t* weights = nullptr;
  const float* row_scales = nullptr;  // [n]; null: every scale is 1
};

inline constexpr int kHalfGemmTileRows = 16;
inline constexpr int kHalfGemmTileColumns = 64;
inline constexpr int kHalfGemmWeightBytes = kGemmRows * 64 * 2;  // of a step
constexpr int half_gemm_stages(int tokens) { return tokens == 64 ? 4 : 3; }
constexpr int half_gemm_stage_bytes(int tokens) { return tokens * 128 + kHalfGemmWeightBytes; }

GemmWork half_gemm_work(const HalfGemmParams& p, int64_t blocks);
int64_t half_gemm_shared_bytes(const HalfGemmParams& p);
int64_t half_gemm_workspace_bytes(const HalfGemmParams& p, int64_t blocks);

// Bytes the kernel must move: weights, x, bias and y, each once.
int64_t half_gemm_bytes(const HalfGemmParams& p);

// Empty if the kernel can take the problem in this many blocks of this much shared memory,
// otherwise the reason.
std::string half_gemm_why_not(const HalfGemmParams& p, int64_t shared_bytes_per_block,
                              int64_t blocks);

// A tile is 16 rows x 64 columns in 4 x 32 x 4 words: the four words of lane 4g+t in step s are its
// A fragment of those 16 columns, so that a lane's fragment is one 16-byte load. Columns are
// permuted as in int4_gemv.h: of 32 columns a lane owns 8 neighbours (8t...), four in either step.
// Missing rows and columns are 0.
//   w: [n, k] 16-bit numbers of either kind
int64_t half_gemm_weight_words(int64_t n, int64_t k);
void half_gemm_pack_weights(uint32_t* packed, const uint16_t* w, int64_t n, int64_t k);

// bf16 weights as f16 ones with a power of two for each row, so that one kind of activations, f16,
// goes with every form of weights. A row's largest weight lands in [2^15, 2^16): what is at least
// 2^-32 of it keeps its value exactly, what is smaller is rounded by at most 2^-40 of it.
//   halves: [n, k] f16; scales: [n]; w: [n, k] bf16. False if a weight is infinite or NaN.
bool half_gemm_from_bfloat16(uint16_t* halves, float* scales, const uint16_t* w, int64_t n,
                             int64_t k);

}  // namespace tgv::cuda
