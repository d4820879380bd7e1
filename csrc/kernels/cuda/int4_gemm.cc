#include "kernels/cuda/int4_gemm.h"

#include "base/errors.h"

namespace tgv::cuda {

namespace {
int tokens_per_tile(const Int4GemmParams& p) { return p.m <= 64 ? 64 : 128; }
}  // namespace

GemmWork int4_gemm_work(const Int4GemmParams& p, int64_t blocks) {
  return gemm_work(p.m, p.n, tokens_per_tile(p),
                   int4_gemv_padded_k(p.k, p.group) / kInt4GemvTileColumns, blocks);
}

int64_t int4_gemm_shared_bytes(const Int4GemmParams& p) {
  const int tokens = tokens_per_tile(p);
  return int64_t{int4_gemm_stages(tokens)} * int4_gemm_stage_bytes(tokens);
}

int64_t int4_gemm_workspace_bytes(const Int4GemmParams& p, int64_t blocks) {
  return gemm_workspace_bytes(int4_gemm_work(p, blocks));
}

int64_t int4_gemm_bytes(const Int4GemmParams& p) {
  const int64_t scales = 4 * int4_gemv_scale_words(p.n, p.k, p.group);
  return 4 * int4_gemv_weight_words(p.n, p.k, p.group) + scales * (p.zeros ? 2 : 1) +
         p.m * (2 * p.k + (p.y_is_element ? 2 : 4) * p.n) + (p.bias ? 2 * p.n : 0);
}

std::string int4_gemm_why_not(const Int4GemmParams& p, int64_t shared_bytes_per_block,
                              int64_t blocks) {
  if (const std::string problem = gemm_why_not(p); !problem.empty()) return problem;
  if (p.group != 32 && p.group != 64 && p.group != 128) {
    return concat("group is ", p.group, ", expected 32, 64 or 128");
  }
  if (!p.weights || !p.scales) return "weights or scales is null";
  for (const uint32_t* pointer : {p.weights, p.scales, p.zeros}) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16) {
      return "weights, scales or zeros is not 16-byte aligned";
    }
  }
  const std::string shared = gemm_shared_why_not(int4_gemm_shared_bytes(p), shared_bytes_per_block);
  return shared.empty() ? gemm_workspace_why_not(p, int4_gemm_work(p, blocks)) : shared;
}

}  // namespace tgv::cuda
