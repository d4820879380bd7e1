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
// [block of kLinearTokens tokens][tile][token of the block].
//
// A dot product d counts from the bits of base = 1.5 * 2^23 * 2^e, 2^e being the step of the
// levels. The float with the bits base + d is base + d 2^e: subtracting base converts and scales at
// once, exactly, and where base is NaN, because the activations have no finite levels, so is all
// that comes of them.
struct RoundedTile {
  int8_t q[32];
  float base;
  int32_t start;  // bits of base - 8 * sum q: what symmetric int4 counts from
};
static_assert(sizeof(RoundedTile) == 40);

// Biased exponents of the largest of 32: steps from 2^-100 to 2^100, so that base and every product
// with a float16 scale are normal floats.
constexpr int32_t kLeastExponent = 127 + 6 - 100, kMostExponent = 127 + 6 + 100;

// Where the first token of a tile of a block of tokens is.
inline RoundedTile* rounded_column(void* rounded, int64_t columns, int64_t first, int64_t count,
                                   int64_t tile) {
  return static_cast<RoundedTile*>(rounded) + first * ((columns + 31) / 32) + tile * count;
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
