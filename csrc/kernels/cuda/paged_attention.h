// Decode attention over a paged cache: the problem and when the kernels can take it. Host code
// only; the kernels are in paged_attention.cuh.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/cuda/kv_pages.h"
#include "kernels/cuda/numbers.h"

namespace tgv::cuda {

// The context is cut at fixed absolute positions, so that a result never depends on how the work
// was split.
inline constexpr int kCutPositions = 64;

// out[s, h] = softmax(q[s, h] K^T * scale) V over the first lengths[s] positions of sequence s.
struct PagedAttentionParams {
  int sequences = 0, heads = 0, head_dim = 0;  // S, H, D
  int max_pages = 0;                           // row length of block_table
  float scale = 0;                             // 1 / sqrt(D)
  KvKind kind = KvKind::kF16;

  void* out = nullptr;             // [S, H, D] f32, or f16
  bool out_is_half = false;        // f16
  float* partial = nullptr;        // scratch, paged_attention_partial_elems(p) floats
  const void* q = nullptr;         // [S, H, D] f16; bf16 or f32 over pages of these
  const void* k_pages = nullptr;   // [NP, H, PS, D] kind
  const void* v_pages = nullptr;   // [NP, H, PS, D] kind
  const Half* k_scales = nullptr;  // [NP, H, PS] f16; null unless kind is kI8 or kE4M3
  const Half* v_scales = nullptr;  // [NP, H, PS] f16; null unless kind is kI8 or kE4M3
  const int32_t* block_table =
      nullptr;  // [S, max_pages], entries beyond a sequence's pages are not read
  const int32_t* lengths = nullptr;  // [S] in device memory, 1..max_pages * PS; 0 gives zeros
};

int paged_attention_max_cuts(const PagedAttentionParams& p);
int64_t paged_attention_partial_elems(const PagedAttentionParams& p);

// Bytes that must move for sequences of these total positions: K and V with their scales, q and
// out, each once.
int64_t paged_attention_bytes(const PagedAttentionParams& p, int64_t total_positions);

// Empty if the kernels can take the problem, otherwise the reason.
std::string paged_attention_why_not(const PagedAttentionParams& p);

}  // namespace tgv::cuda
