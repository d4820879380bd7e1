// Between int4_matmul.cc and its bodies, one per ISA (int4_matmul_body.h).
#pragma once

#include "kernels/cpu/int4_matmul.h"

namespace tgv::cpu {

constexpr int kInt4Tokens = 64;       // tokens for which a tile is unpacked once
constexpr int kInt4PassTokens = 256;  // tokens rounded at once: bounds the scratch

// 32 activations of one token.
struct Int4Activations {
  int8_t q[32];
  float scale;
  int32_t offset;  // -8 * sum q when symmetric, else -sum q
};
static_assert(sizeof(Int4Activations) == 40);

// Tokens `first` .. first + tokens - 1 of the problem. `rounded` is laid out as
// [block of kInt4Tokens tokens][tile][token of the block].
struct Int4Pass {
  int64_t first = 0;
  int64_t tokens = 0;
  Int4Activations* rounded = nullptr;
};

// Of a pass: blocks of tokens begin .. end - 1, tiles tile_begin .. tile_end - 1.
using Int4Round = void(const Int4MatmulParams& params, const Int4Pass& pass, int64_t token_block,
                       int64_t tile_begin, int64_t tile_end);
// Of a pass: blocks of 16 rows begin .. end - 1, all tokens.
using Int4Rows = void(const Int4MatmulParams& params, const Int4Pass& pass, int64_t begin,
                      int64_t end);

Int4Round int4_round_portable, int4_round_avx2, int4_round_avxvnni, int4_round_avx512vnni;
Int4Rows int4_rows_portable, int4_rows_avx2, int4_rows_avxvnni, int4_rows_avx512vnni;

}  // namespace tgv::cpu
