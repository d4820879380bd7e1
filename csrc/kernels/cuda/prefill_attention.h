// Causal attention of new tokens over a paged cache that holds them already: the problem and when
// the kernel can take it. Host code only; the kernel is prefill_attention.cuh.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/cuda/kv_pages.h"
#include "kernels/cuda/numbers.h"

namespace tgv::cuda {

inline constexpr int kPrefillQueries = 64;  // of a block
inline constexpr int kPrefillKeys = 64;     // of a step, at fixed absolute positions

// out[row, h] = softmax(q[row, h] K^T * scale) V. Sequence s has rows first_tokens[s] ... +
// tokens[s] - 1 of q and out; they are its last positions, contexts[s] - tokens[s] ... contexts[s]
// - 1, and each sees the positions up to its own. Rows of no sequence are left as they are.
struct PrefillAttentionParams {
  int sequences = 0, heads = 0, head_dim = 0;  // S, H, D
  int max_pages = 0;                           // row length of block_table
  int max_tokens = 0;                          // of any sequence: the grid is made for it
  float scale = 0;                             // 1 / sqrt(D)
  KvKind kind = KvKind::kF16;

  void* out = nullptr;             // [rows, H, D] f32, or f16
  bool out_is_half = false;        // f16
  const void* q = nullptr;         // [rows, H, D] f16; bf16 over bf16 pages
  const void* k_pages = nullptr;   // [NP, H, PS, D] kind
  const void* v_pages = nullptr;   // [NP, H, PS, D] kind
  const Half* k_scales = nullptr;  // [NP, H, PS] f16; null unless kind is kI8 or kE4M3
  const Half* v_scales = nullptr;  // [NP, H, PS] f16; null unless kind is kI8 or kE4M3
  const int32_t* block_table =
      nullptr;  // [S, max_pages], entries beyond a sequence's pages are not read
  // In device memory, so that the same launch serves any lengths within max_tokens.
  const int32_t* first_tokens = nullptr;  // [S]
  const int32_t* tokens = nullptr;        // [S] 0..max_tokens
  const int32_t* contexts = nullptr;      // [S] tokens[s]..max_pages * PS
};

// Bytes that must move for so many new tokens and positions in all: K and V with their scales, q
// and out, each once.
int64_t prefill_attention_bytes(const PrefillAttentionParams& p, int64_t total_tokens,
                                int64_t total_positions);

// Empty if the kernel can take the problem, otherwise the reason.
std::string prefill_attention_why_not(const PrefillAttentionParams& p);

}  // namespace tgv::cuda
