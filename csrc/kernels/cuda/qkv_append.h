// The rows of q, k and v that the qkv product gives, normalised, rotated and put in their places:
// the problem and when the kernel can take it. Host code only; the kernel is qkv_append.cuh.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/cuda/kv_pages.h"
#include "kernels/cuda/numbers.h"

namespace tgv::cuda {

inline constexpr int kQkvAppendMaxHeadDim = 256;

// q[t, h] = rotate(norm(qkv[t, h, 0])); at positions[t] of token t's sequence, K = rotate(norm(
// qkv[t, h, 1])) and V = qkv[t, h, 2], rounded to `kind`. Where a token goes is read from device
// memory when the kernel runs, so that a captured graph can be replayed for the next token.
//
// A token without a place writes nothing, not even its q: one whose position is negative (padding
// of a batch) or beyond the block table or cos and sin, whose sequence is not in 0..S-1, or whose
// page is not in 0..NP-1. No two tokens may have the same place.
struct QkvAppendParams {
  int tokens = 0, heads = 0, head_dim = 0;  // T, H, D
  int rotary_dims = 0;                      // R
  int rotary_positions = 0;                 // rows of cos and sin; not read if R is 0
  int sequences = 0, max_pages = 0;         // S and the row length of block_table
  int pages = 0;                            // NP
  float eps = 0;                            // not read without a weight
  KvKind kind = KvKind::kI8;
  KvKind q_kind = KvKind::kF16;  // f32, f16 or bf16

  void* q = nullptr;                     // [T, H, D] q_kind; overlaps no input
  void* k_pages = nullptr;               // [NP, H, PS, D] kind
  void* v_pages = nullptr;               // [NP, H, PS, D] kind
  Half* k_scales = nullptr;              // [NP, H, PS] f16; null unless the kind has scales
  Half* v_scales = nullptr;              // [NP, H, PS] f16; null unless the kind has scales
  const float* qkv = nullptr;            // [T, H, 3, D] f32, bias included
  const int32_t* positions = nullptr;    // [T]
  const int32_t* sequence_of = nullptr;  // [T]; null: token t is of sequence t
  const int32_t* block_table = nullptr;  // [S, max_pages]
  const float* q_weight = nullptr;       // [D]; null: q is not normalised
  const float* q_bias = nullptr;         // [D]; may be null
  const float* k_weight = nullptr;       // [D]; null: k is not normalised
  const float* k_bias = nullptr;         // [D]; may be null
  const float* cos = nullptr;            // [positions, R/2]; null if R is 0
  const float* sin = nullptr;            // [positions, R/2]; null if R is 0
};

// Bytes that must move if every token has a place: qkv, q, K and V with their scales, each once.
int64_t qkv_append_bytes(const QkvAppendParams& p);

// Empty if the kernel can take the problem, otherwise the reason.
std::string qkv_append_why_not(const QkvAppendParams& p);

}  // namespace tgv::cuda
