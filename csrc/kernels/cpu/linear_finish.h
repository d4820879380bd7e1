// What becomes of the sums of a strip of rows: bias, activation, y. Between the bodies of linear.h
// and those of linear_finish_body.h, one per vector.
#pragma once

#include "kernels/cpu/linear_isa.h"

namespace tgv::cpu {

// Row r of the strip and its token m go to at[m * stride + r].
struct Target {
  float* at;
  int64_t stride;
  int64_t rows;  // that may be written
  bool stream;   // past the caches: nobody reads it before they are full of other things
};

// The rows first_row .. of y itself, from token first_token on.
inline Target target_of(const Linear& w, const LinearInput& in, float* y, int64_t first_token,
                        int64_t first_row) {
  float* const at = y + first_token * w.shape.rows + first_row;
  const bool lines = reinterpret_cast<uintptr_t>(at) % 64 == 0 && w.shape.rows % 16 == 0;
  return {at, w.shape.rows, w.shape.rows - first_row, lines && in.tokens > kLinearTokens};
}

// sums [tokens][16 blocks], 64-byte aligned, of the rows from first_row of W on. What it streams is
// visible to others after a fence.
using LinearFinish = void(const Linear& w, const Target& to, const float* sums, int64_t tokens,
                          int64_t first_row, int blocks);
LinearFinish linear_finish_portable, linear_finish_avx2, linear_finish_avx512;

}  // namespace tgv::cpu
