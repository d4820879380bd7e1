// Which kernel an int4 product takes: int4_gemv for few rows, which wants no workspace, or
// int4_gemm.
//
// C++17: nvcc reads it.
#pragma once

#include <cstdint>

#include "kernels/cuda/int4_gemm.h"

namespace tgv::model {

inline constexpr int kGemvRows = 8;    // of x, at most; a number of rows that graphs have
inline constexpr int kGemvBlocks = 4;  // a multiprocessor, see int4_gemv.cuh

// The same product for int4_gemv; p.m is at most kGemvRows.
inline cuda::Int4GemvParams gemv_of(const cuda::Int4GemmParams& p) {
  cuda::Int4GemvParams out;
  out.n = p.n;
  out.k = p.k;
  out.batch = static_cast<int>(p.m);
  out.group = p.group;
  out.y = p.y;
  out.y_is_half = p.y_is_element;
  out.gelu = p.gelu;
  out.x = static_cast<const Half*>(p.x);
  out.weights = p.weights;
  out.scales = p.scales;
  out.zeros = p.zeros;
  out.bias = static_cast<const Half*>(p.bias);
  return out;
}

// By sizes alone: whether p.m rows of x fit a block.
inline bool takes_gemv(const cuda::Int4GemmParams& p, int64_t shared_bytes_per_block) {
  return p.m <= kGemvRows &&
         cuda::int4_gemv_shared_bytes(gemv_of(p)) + cuda::kInt4GemvStaticSharedBytes <=
             shared_bytes_per_block;
}

}  // namespace tgv::model
