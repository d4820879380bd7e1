#include "kernels/cuda/int8_gemm.h"

#include "base/errors.h"

namespace tgv::cuda {

namespace {
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int tokens_per_tile(const Int8GemmParams& p) { return p.m <= 64 ? 64 : 128; }
}  // namespace

GemmWork int8_gemm_work(const Int8GemmParams& p, int64_t blocks) {
  return gemm_work(p.m, p.n, tokens_per_tile(p), ceil_div(p.k, kInt8GemmTileColumns), blocks);
}

int64_t int8_gemm_shared_bytes(const Int8GemmParams& p) {
  const int tokens = tokens_per_tile(p);
  return int64_t{int8_gemm_stages(tokens)} * int8_gemm_stage_bytes(tokens);
}

int64_t int8_gemm_workspace_bytes(const Int8GemmParams& p, int64_t blocks) {
  return gemm_workspace_bytes(int8_gemm_work(p, blocks));
}

int64_t int8_gemm_bytes(const Int8GemmParams& p) {
  return 4 * int8_gemm_weight_words(p.n, p.k) + 4 * p.n +
         p.m * (2 * p.k + (p.y_is_element ? 2 : 4) * p.n) + (p.bias ? 2 * p.n : 0);
}

std::string int8_gemm_why_not(const Int8GemmParams& p, int64_t shared_bytes_per_block,
                              int64_t blocks) {
  if (const std::string problem = gemm_why_not(p); !problem.empty()) return problem;
  if (!p.weights || !p.row_scales) return "weights or row_scales is null";
  if (reinterpret_cast<uintptr_t>(p.weights) % 16) return "weights is not 16-byte aligned";
  const std::string shared = gemm_shared_why_not(int8_gemm_shared_bytes(p), shared_bytes_per_block);
  return shared.empty() ? gemm_workspace_why_not(p, int8_gemm_work(p, blocks)) : shared;
}

int64_t int8_gemm_weight_words(int64_t n, int64_t k) {
  return ceil_div(n, kInt8GemmTileRows) * ceil_div(k, kInt8GemmTileColumns) * kInt8GemmTileRows *
         kInt8GemmTileColumns / 4;
}

void int8_gemm_pack_weights(uint32_t* packed, const int8_t* q, int64_t n, int64_t k) {
  const auto four = [&](int64_t row, int64_t column) {
    uint32_t word = 0;
    for (int64_t i = 0; i < 4 && row < n && column + i < k; ++i) {
      word |= uint32_t{static_cast<uint8_t>(q[row * k + column + i])} << 8 * i;
    }
    return word;
  };
  const int64_t column_tiles = ceil_div(k, kInt8GemmTileColumns);
  for (int64_t tile = 0; tile < ceil_div(n, kInt8GemmTileRows) * column_tiles; ++tile) {
    for (int half = 0; half < 2; ++half) {
      for (int lane = 0; lane < 32; ++lane) {
        const int64_t row = tile / column_tiles * kInt8GemmTileRows + lane / 4;
        const int64_t column =
            tile % column_tiles * kInt8GemmTileColumns + half * 32 + lane % 4 * 8;
        *packed++ = four(row, column);
        *packed++ = four(row + 8, column);
        *packed++ = four(row, column + 4);
        *packed++ = four(row + 8, column + 4);
      }
    }
  }
}

}  // namespace tgv::cuda
