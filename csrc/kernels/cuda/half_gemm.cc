#include "kernels/cuda/half_gemm.h"

#include <algorithm>
#include <cmath>

#include "base/errors.h"
#include "base/float16.h"

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
         (p.bias ? 2 * p.n : 0) + (p.row_scales ? 4 * p.n : 0);
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

bool half_gemm_from_bfloat16(uint16_t* halves, float* scales, const uint16_t* w, int64_t n,
                             int64_t k) {
  for (int64_t row = 0; row < n; ++row) {
    int largest = 0;  // magnitudes of bf16 are in the order of their codes
    for (int64_t i = row * k; i < (row + 1) * k; ++i) largest = std::max(largest, w[i] & 0x7fff);
    if (largest >= 0x7f80) return false;
    int exponent = 0;  // largest = [0.5, 1) * 2^exponent
    std::frexp(bfloat16_to_float(static_cast<uint16_t>(largest)), &exponent);
    const int up = largest ? 16 - exponent : 0;
    scales[row] = std::ldexp(1.0f, -up);
    const double factor = std::ldexp(1.0, up);  // 2^148 at most, which no float is
    for (int64_t i = row * k; i < (row + 1) * k; ++i) {
      halves[i] = float_to_half(static_cast<float>(bfloat16_to_float(w[i]) * factor));
    }
  }
  return true;
}

}  // namespace tgv::cuda
