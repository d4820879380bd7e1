// What      Looks up the rows that a step starts from.
//
// Math      y = row, times the row's scale for an int8 table.
//
// Tensors   EmbeddingParams (embedding.h).
//
// Threads   256 threads take 1024 neighbours of one row, four each: what is written is four times
//           what is read of an int8 table, so that it is the store that takes 16 bytes a lane.
//
// Traffic   One row of the table, past L1, and one of y per token.
//
// Limits    embedding_why_not: C a multiple of 4.
//
// Numerics  f16 and bf16 are exact; int8 is one product, rounded once: the bits of kernels/cpu.
//
// Oracle    The same lookup on the host, bit for bit, csrc/tests/cuda_embedding_test.cc.
#pragma once

#include "kernels/cuda/device/convert.cuh"
#include "kernels/cuda/device/dependent.cuh"
#include "kernels/cuda/device/load.cuh"
#include "kernels/cuda/device/round.cuh"
#include "kernels/cuda/embedding.h"

namespace tgv::cuda {

__device__ __forceinline__ float4 widen_int8(uint32_t word, float scale) {
  return make_float4(static_cast<float>(static_cast<int8_t>(word)) * scale,
                     static_cast<float>(static_cast<int8_t>(word >> 8)) * scale,
                     static_cast<float>(static_cast<int8_t>(word >> 16)) * scale,
                     static_cast<float>(static_cast<int8_t>(word >> 24)) * scale);
}

// Vector `at` of the table's vectors of four.
template <EmbeddingKind kKind>
__device__ __forceinline__ float4 load_embedding(const EmbeddingParams& p, int64_t at, int id) {
  if (kKind == EmbeddingKind::kF32) return static_cast<const float4*>(p.rows)[at];
  if (kKind == EmbeddingKind::kI8) {
    return widen_int8(static_cast<const uint32_t*>(p.rows)[at], p.scales[id]);
  }
  const uint2 words = load_once_8(static_cast<const uint2*>(p.rows) + at);
  const bool half = kKind == EmbeddingKind::kF16;
  const float2 low = half ? half2_to_float2(words.x) : bfloat2_to_float2(words.x);
  const float2 high = half ? half2_to_float2(words.y) : bfloat2_to_float2(words.y);
  return make_float4(low.x, low.y, high.x, high.y);
}

// row_blocks: blocks that share a row.
template <EmbeddingKind kKind>
__global__ void __launch_bounds__(kEmbeddingThreads)
    embedding_rows(const EmbeddingParams p, int row_blocks) {
  wait_for_previous();
  const int token = static_cast<int>(blockIdx.x) / row_blocks;
  const int64_t vectors = p.width / 4;
  const int64_t v =
      int64_t{static_cast<int>(blockIdx.x) % row_blocks} * kEmbeddingThreads + threadIdx.x;
  if (v >= vectors) return;
  const int id = p.ids[token], given = -1 - id;
  float4 x = make_float4(NAN, NAN, NAN, NAN);
  if (id >= 0 && id < p.vocab) {
    x = load_embedding<kKind>(p, id * vectors + v, id);
  } else if (id < 0 && given < p.given_rows) {
    x = reinterpret_cast<const float4*>(p.given)[given * vectors + v];
  }
  reinterpret_cast<float4*>(p.y)[token * vectors + v] = x;
}

}  // namespace tgv::cuda
