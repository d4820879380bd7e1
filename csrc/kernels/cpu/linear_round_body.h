// Rounding of activations, compiled once per ISA. Nothing of the standard library is called
// (cmake/isa.cmake says why).
#pragma once

#include "kernels/cpu/linear_isa.h"

namespace tgv::cpu {
namespace {

// 32 floats at x to int8. Integer maximum of the bits: it orders magnitudes as floats do, puts NaN
// and infinity on top, and compilers vectorise it.
TGV_INLINE void round_tile(RoundedTile& out, const float* x) {
  int32_t top = 0;
  for (int k = 0; k < 32; ++k) {
    const int32_t magnitude = static_cast<int32_t>(__builtin_bit_cast(uint32_t, x[k]) & 0x7fffffff);
    top = magnitude > top ? magnitude : top;
  }
  const float largest = __builtin_bit_cast(float, top);
  constexpr float kTiny = 7.888609052210118e-31f;  // 2^-100
  if (!(largest >= kTiny) || top >= 0x7f800000) {
    for (int k = 0; k < 32; ++k) out.q[k] = 0;
    out.scale = top >= 0x7f800000 ? __builtin_nanf("") : 0.0f;
    out.offset = 0;
    return;
  }
  const float inverse = 127.0f / largest;
  int32_t sum = 0;
  for (int k = 0; k < 32; ++k) {
    // Adding 1.5 * 2^23 leaves no bits for a fraction: nearest, ties to even; the low byte is q.
    const float shifted = x[k] * inverse + 12582912.0f;
    const int32_t level = static_cast<int32_t>(__builtin_bit_cast(uint32_t, shifted) - 0x4b400000u);
    out.q[k] = static_cast<int8_t>(level);
    sum += level;
  }
  out.scale = largest / 127.0f;
  out.offset = -8 * sum;
}

// kRoundTile: round_tile, or what an ISA does in its place with the same result.
template <void (*kRoundTile)(RoundedTile&, const float*) = round_tile>
TGV_INLINE void round_tokens(const LinearInput& in, int64_t token_block, int64_t tile_begin,
                             int64_t tile_end) {
  const int64_t K = in.columns, tiles = (K + 31) / 32, first = token_block * kLinearTokens;
  const int64_t left = in.tokens - first, count = left < kLinearTokens ? left : kLinearTokens;
  RoundedTile* block = static_cast<RoundedTile*>(in.rounded) + first * tiles;
  for (int64_t m = 0; m < count; ++m) {
    const float* x = in.x + (first + m) * K;
    for (int64_t t = tile_begin; t < tile_end; ++t) {
      RoundedTile& out = block[t * count + m];
      if (32 * (t + 1) <= K) {
        kRoundTile(out, x + 32 * t);
        continue;
      }
      float padded[32] = {};
      for (int64_t k = 32 * t; k < K; ++k) padded[k - 32 * t] = x[k];
      kRoundTile(out, padded);
    }
  }
}

}  // namespace
}  // namespace tgv::cpu
