// Between linear.cc and its bodies, one per ISA.
#pragma once

#include "kernels/cpu/linear.h"

#define TGV_INLINE inline __attribute__((always_inline))

namespace tgv::cpu {

// Tokens for which a tile is unpacked once: 48 rows of K = 10240, rounded, leave L2 room for
// weights.
constexpr int kLinearTokens = 48;

// 32 activations of one token. `rounded` is laid out as
// [block of kLinearTokens tokens][tile][token of the block].
struct RoundedTile {
  int8_t q[32];
  float scale;
  int32_t offset;  // -8 * sum q: what symmetric int4 starts from; others scale it
};
static_assert(sizeof(RoundedTile) == 40);

// Block of tokens token_block, tiles tile_begin .. tile_end - 1.
using LinearRound = void(const LinearInput& input, int64_t token_block, int64_t tile_begin,
                         int64_t tile_end);
// Blocks of 16 rows begin .. end - 1, all tokens.
using LinearRows = void(const Linear& linear, const LinearInput& input, float* y, int64_t begin,
                        int64_t end);

LinearRound linear_round_portable, linear_round_avx2, linear_round_avx512vnni;
LinearRows linear_int4_portable, linear_int4_avx2, linear_int4_avxvnni, linear_int4_avx512vnni;
LinearRows linear_int8_portable, linear_int8_avx2, linear_int8_avxvnni, linear_int8_avx512vnni;
LinearRows linear_bf16_portable, linear_bf16_avx2, linear_bf16_avx512;
LinearRows linear_f32_portable, linear_f32_avx2, linear_f32_avx512;

}  // namespace tgv::cpu
