#include "kernels/cuda/half_gemm.h"

#include "base/errors.h"

namespace tgv::cuda {

namespace {
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int tokens_per_tile(const HalfGemmParams& p) { return p.m <= 64 ? 64 : 128; }
}  // namespace

GemmWork half_gemm_work(const HalfGemmParams& p, int64_t blocks) {
  return gemm_work(p.m, p.n, tokens_per_tile(p), ceil_div(p.k, kHalfGemmTileColumns), blocks);
}

int64_t half_gemm_shared_bytes(const HalfGemmParams& p) {
  const int tokens = tokens_per_tile(p);
  return int64_t{half_gemm_stages(tokens)} * half_gemm_stage_bytes(tokens);
}

int64_t half_gemm_workspace_bytes(const HalfGemmParams& p, int64_t blocks) {
  return gemm_workspace_bytes(half_gemm_work(p, blocks));
}

int64_t half_gemm_bytes(const HalfGemmParams& p) {
  return 4 * half_gemm_weight_words(p.n, p.k) + p.m * (2 * p.k + (p.y_is_element ? 2 : 4) * p.n) +
         (p.bias ? 2 * p.n : 0);
}

std::string half_gemm_why_not(const HalfGemmParams& p, int64_t shared_bytes_per_block,
                              int64_t blocks) {
  if (const std::string problem = gemm_why_not(p); !problem.empty()) return problem;
  if (!p.weights) return "weights is null";
  if (reinterpret_cast<uintptr_t>(p.weights) % 16) return "weights is not 16-byte aligned";
  const std::string shared = gemm_shared_why_not(half_gemm_shared_bytes(p), shared_bytes_per_block);
  return shared.empty() ? gemm_workspace_why_not(p, half_gemm_work(p, blocks)) : shared;
}

int64_t half_gemm_weight_words(int64_t n, int64_t k) {
  return ceil_div(n, kHalfGemmTileRows) * ceil_div(k, kHalfGemmTileColumns) * kHalfGemmTileRows *
         kHalfGemmTileColumns / 2;
}

void half_gemm_pack_weights(uint32_t* packed, const uint16_t* w, int64_t n, int64_t k) {
  const auto value = [&](int64_t row, int64_t column) -> uint32_t {
    return row < n && column < k ? w[row * k + column] : 0u;
  };
  const int64_t column_tiles = ceil_div(k, kHalfGemmTileColumns);
  for (int64_t tile = 0; tile < ceil_div(n, kHalfGemmTileRows) * column_tiles; ++tile) {
    for (int step = 0; step < 4; ++step) {
      for (int lane = 0; lane < 32; ++lane) {
        const int64_t row0 = tile / column_tiles * kHalfGemmTileRows + lane / 4;
        const int64_t column0 = tile % column_tiles * kHalfGemmTileColumns + step / 2 * 32 +
                                lane % 4 * 8 + step % 2 * 4;
        for (int a = 0; a < 4; ++a) {
          const int64_t row = row0 + a % 2 * 8, column = column0 + a / 2 * 2;
          *packed++ = value(row, column) | value(row, column + 1) << 16;
        }
      }
    }
  }
}

}  // namespace tgv::cuda
