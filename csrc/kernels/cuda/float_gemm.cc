#include "kernels/cuda/float_gemm.h"

#include "base/errors.h"

namespace tgv::cuda {

namespace {
int tokens_per_tile(const FloatGemmParams& p) { return p.m <= 16 ? 16 : 64; }
}  // namespace

GemmWork float_gemm_work(const FloatGemmParams& p, int64_t blocks) {
  return gemm_work(p.m, p.n, tokens_per_tile(p), (p.k + kFloatGemmColumns - 1) / kFloatGemmColumns,
                   blocks);
}

int64_t float_gemm_shared_bytes(const FloatGemmParams& p) {
  const int tokens = tokens_per_tile(p);
  return int64_t{float_gemm_stages(tokens)} * float_gemm_stage_bytes(tokens);
}

int64_t float_gemm_workspace_bytes(const FloatGemmParams& p, int64_t blocks) {
  return gemm_workspace_bytes(float_gemm_work(p, blocks));
}

int64_t float_gemm_bytes(const FloatGemmParams& p) {
  return 4 * (p.n * p.k + p.m * (p.k + p.n) + (p.bias ? p.n : 0));
}

std::string float_gemm_why_not(const FloatGemmParams& p, int64_t shared_bytes_per_block,
                               int64_t blocks) {
  if (const std::string problem = gemm_why_not(p); !problem.empty()) return problem;
  if (!p.weights) return "weights is null";
  const std::string shared =
      gemm_shared_why_not(float_gemm_shared_bytes(p), shared_bytes_per_block);
  return shared.empty() ? gemm_workspace_why_not(p, float_gemm_work(p, blocks)) : shared;
}

}  // namespace tgv::cuda
