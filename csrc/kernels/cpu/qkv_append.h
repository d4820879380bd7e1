// The rows of q, k and v that a token's qkv product gives: q and k normalised and rotated, k and v
// rounded and written to their place in the cache.
//
// What     q[t,h] = rotate(norm(qkv[t,h,0])); K at position first_position + t = round(rotate(norm(
//          qkv[t,h,1]))); V there = round(qkv[t,h,2]).
// Math     norm(x) = (x - mean) / sqrt(var + eps) * weight + bias over D, or x without weight.
//          rotate: of the first R dims, x_i and x_(i + R/2) become x_i cos - x_(i+R/2) sin and
//          x_(i+R/2) cos + x_i sin with cos, sin [position, i]; the others pass.
//          round: as kv/rows.h. A number an int8 row cannot hold (NaN, infinity, or so large that
//          the scale is no half) makes the row's scale NaN, and in the other kinds stays what it
//          becomes there: whoever reads the row gets NaN or infinity.
// Tensors  qkv [T, H, 3, D], q [T, H, D] f32; pages as in kv_pages.h.
// Threads  A piece is a range of heads, all tokens; pieces write different rows.
// Traffic  Everything once.
// Numerics Sums over D: lane j of 16 adds d = j, 16 + j, ... in order, then the tree of
//          paged_attention.h; no product is fused but the one in var and weight, bias. A row
//          depends on its own numbers and position alone; all ISAs agree bit for bit.
// Limits   T, first_position >= 0, H >= 1, D a multiple of 4 in 4..256, R even in 0..D, PS = 16.
// Oracle   tinygptv_fast.reference.qkv_append (torch).
#pragma once

#include <cstdint>

#include "base/isa.h"
#include "base/thread_pool.h"
#include "kernels/cpu/kv_pages.h"

namespace tgv::cpu {

struct QkvAppendParams {
  int64_t heads = 0;           // H
  int64_t head_dim = 0;        // D
  int64_t rotary_dims = 0;     // R
  int64_t tokens = 0;          // T
  int64_t first_position = 0;  // of token 0
  const float* qkv = nullptr;  // [T, H, 3, D]
  float* q = nullptr;          // [T, H, D]; overlaps no input
  KvPages pages;
  const int32_t* block_table = nullptr;  // [ceil((first_position + T) / PS)]
  const float* q_weight = nullptr;       // [D]; null: q is not normalised
  const float* q_bias = nullptr;         // [D]; may be null
  const float* k_weight = nullptr;       // [D]; null: k is not normalised
  const float* k_bias = nullptr;         // [D]; may be null
  float eps = 0;
  const float* cos = nullptr;  // [positions, R/2]; null if R is 0
  const float* sin = nullptr;  // [positions, R/2]; null if R is 0
};

// Null, or the sentence why qkv_append cannot run this.
const char* qkv_append_why_not(const QkvAppendParams& params);

// One piece, on the calling thread: checks, allocates and throws nothing (qkv_append_why_not must
// be null, 0 <= head_begin <= head_end <= H).
void qkv_append(const QkvAppendParams& params, int64_t head_begin, int64_t head_end, Isa isa);

// All of it. Throws InvalidArgument with the sentence of qkv_append_why_not.
void qkv_append(const QkvAppendParams& params, ThreadPool& pool, Isa isa);

}  // namespace tgv::cpu
