// int4 matrix times up to eight vectors: the problem, its packed operands, and when the kernel can
// take it. Host code only; the kernel is int4_gemv.cuh.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/numbers.h"

namespace tgv::cuda {

// y = f(x W^T + bias), W = (q - zero) * scale. Sizes are the caller's; packing pads them.
struct Int4GemvParams {
  int64_t n = 0, k = 0;  // rows (outputs) and columns (inputs) of W
  int batch = 0;         // rows of x and y, 1..8
  int group = 0;         // columns that share a scale: 32, 64 or 128

  void* y = nullptr;        // [batch, n] f32, or f16
  bool y_is_half = false;   // f16
  bool gelu = false;        // f = tanh-GELU, otherwise the identity
  const Half* x = nullptr;  // [batch, k] f16
  const uint32_t* weights =
      nullptr;  // packed, int4_gemv_weight_words(n, k, group) words, 16-byte aligned
  const uint32_t* scales =
      nullptr;  // [row tiles, groups, 8] pairs of f16: rows r and r + 8 of the tile
  const uint32_t* zeros =
      nullptr;                 // like scales, 0..15 as f16; null: symmetric, every zero point is 8
  const Half* bias = nullptr;  // [n] f16; may be null
};

inline constexpr int kInt4GemvTileRows = 16;
inline constexpr int kInt4GemvTileColumns = 64;
inline constexpr int kInt4GemvWarps = 8;
inline constexpr int64_t kInt4GemvStaticSharedBytes =
    kInt4GemvWarps * 16 * 8 * 4;  // the warps' partial sums

// k as packed: whole tiles and whole groups.
int64_t int4_gemv_padded_k(int64_t k, int group);
int64_t int4_gemv_row_tiles(int64_t n);
int64_t int4_gemv_groups(int64_t k, int group);  // of a packed row
int64_t int4_gemv_weight_words(int64_t n, int64_t k, int group);
int64_t int4_gemv_scale_words(int64_t n, int64_t k, int group);
int64_t int4_gemv_shared_bytes(const Int4GemvParams& p);  // dynamic: x and its group sums

// Bytes the kernel must move: weights, scales, zeros, x, bias and y, each once.
int64_t int4_gemv_bytes(const Int4GemvParams& p);

// Empty if the kernel can take the problem with this much shared memory per block, otherwise the
// reason.
std::string int4_gemv_why_not(const Int4GemvParams& p, int64_t shared_bytes_per_block);

// A tile is 16 rows x 64 columns in 32 x 4 words: word s of lane 4g+t is the whole A fragment of
// the s-th 16-column step. Inside 32 columns a lane owns 8 neighbours (8t...), the first four in
// word 2h and the last in word 2h+1, so that the matching x are one 16-byte load. Nibbles sit where
// one AND-OR makes an f16 of them (see the kernel).
//   q: [n, k] codes 0..15, one per byte
void int4_gemv_pack_weights(uint32_t* packed, const uint8_t* q, int64_t n, int64_t k, int group);
//   values: [n, ceil(k / group)] f16 (scales, or zero points as numbers); missing rows and groups
//   become 0
void int4_gemv_pack_groups(uint32_t* packed, const Half* values, int64_t n, int64_t k, int group);

}  // namespace tgv::cuda
