// The rows that a step starts from: token embeddings from a table, or rows that somebody gives (a
// picture's). The problem and when the kernel can take it. Host code only; the kernel is
// embedding.cuh.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/cuda/numbers.h"

namespace tgv::cuda {

enum class EmbeddingKind : uint8_t { kF32, kF16, kBF16, kI8 };

// y[t] = rows[ids[t]], times scales[ids[t]] for an int8 table; for a negative id given[-1 -
// ids[t]]. ids lie in device memory, where the host cannot look: an id that names no row of either
// gives a row of NaN.
struct EmbeddingParams {
  int64_t tokens = 0;      // T
  int64_t vocab = 0;       // V
  int64_t width = 0;       // C
  int64_t given_rows = 0;  // G
  EmbeddingKind kind = EmbeddingKind::kF32;

  float* y = nullptr;             // [T, C] f32, overlaps no input
  const void* rows = nullptr;     // [V, C] kind
  const float* scales = nullptr;  // [V] f32; null unless kind is kI8
  const float* given = nullptr;   // [G, C] f32; null if G is 0
  const int32_t* ids = nullptr;   // [T]
};

// Bytes that must move if every id is a token: its row of the table and its row of y.
int64_t embedding_bytes(const EmbeddingParams& p);

// Empty if the kernel can take the problem, otherwise the reason.
std::string embedding_why_not(const EmbeddingParams& p);

inline constexpr int kEmbeddingThreads = 256;
// Blocks that share a row.
inline int64_t embedding_row_blocks(const EmbeddingParams& p) {
  return (p.width / 4 + kEmbeddingThreads - 1) / kEmbeddingThreads;
}

}  // namespace tgv::cuda
