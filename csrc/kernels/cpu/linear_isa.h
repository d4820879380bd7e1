// Between linear.cc and its bodies, one per ISA.
#pragma once

#include "kernels/cpu/linear.h"

#if !defined(TGV_INLINE)  // lanes16_inline.h may have said otherwise
#define TGV_INLINE inline __attribute__((always_inline))
#endif

namespace tgv::cpu {

// Tokens for which a tile is unpacked once: 48 rows of K = 10240, rounded, leave L2 room for
// weights.
constexpr int kLinearTokens = 48;

// 32 activations of one token. `rounded` is laid out as
// [block of kLinearTokens tokens][tile][token of the block], then bytes [tile][token]: 1 where the
// tile held what has no finite level.
struct RoundedTile {
  int8_t q[32];
  float scale;     // a power of two, 2^-100..2^110; 1 where every q is 0
  int32_t offset;  // -8 * sum q: what symmetric int4 starts from; others scale it
};
static_assert(sizeof(RoundedTile) == 40);

// Biased exponents of the largest of 32: with float16 scales of weights, whose exponents are
// -24..15, every product of scales is a normal float, so that an addition of exponents makes it.
constexpr int32_t kLeastExponent = 127 + 6 - 100, kMostExponent = 127 + 6 + 110;

// Of one tile of a block of tokens: where its first token is, and whether its tokens are bad.
struct RoundedColumn {
  RoundedTile* tile;
  uint8_t* bad;
};
inline RoundedColumn rounded_column(void* rounded, int64_t tokens, int64_t columns, int64_t first,
                                    int64_t count, int64_t tile) {
  RoundedTile* const tiles = static_cast<RoundedTile*>(rounded);
  const int64_t across = (columns + 31) / 32;
  uint8_t* const bad = reinterpret_cast<uint8_t*>(tiles + tokens * across);
  return {tiles + first * across + tile * count, bad + tile * tokens + first};
}

// Block of tokens token_block, tiles tile_begin .. tile_end - 1.
using LinearRound = void(const LinearInput& input, int64_t token_block, int64_t tile_begin,
                         int64_t tile_end);
// Blocks of 16 rows begin .. end - 1, all tokens.
using LinearRows = void(const Linear& linear, const LinearInput& input, const LinearOutput& output,
                        int64_t begin, int64_t end);

LinearRound linear_round_portable, linear_round_avx2, linear_round_avx512vnni;
LinearRows linear_int4_portable, linear_int4_avx2, linear_int4_avxvnni, linear_int4_avx512vnni;
LinearRows linear_int8_portable, linear_int8_avx2, linear_int8_avxvnni, linear_int8_avx512vnni;
LinearRows linear_bf16_portable, linear_bf16_avx2, linear_bf16_avx512;
LinearRows linear_f32_portable, linear_f32_avx2, linear_f32_avx512;

}  // namespace tgv::cpu
