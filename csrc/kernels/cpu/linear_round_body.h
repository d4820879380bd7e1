// Rounding of activations, compiled once per ISA. Nothing of the standard library is called
// (cmake/isa.cmake says why).
#pragma once

#include "kernels/cpu/linear_isa.h"

namespace tgv::cpu {
namespace {

// The step of 32 activations: the power of two that takes the largest to 64..127 levels.
struct Step {
  float value = 1.0f, inverse = 1.0f;
  bool zero = false, bad = false;  // then every level is 0
};

// top: the bits of the largest magnitude, which order as floats do and put NaN and infinity on top.
TGV_INLINE Step step_of(int32_t top) {
  // 127.5 / 64 and more would round to 128 levels; the carry doubles the step.
  const int32_t exponent = (top + 0x10000) >> 23;
  Step out;
  out.zero = exponent < kLeastExponent;
  out.bad = exponent > kMostExponent;
  if (out.zero || out.bad) return out;
  out.value = __builtin_bit_cast(float, (exponent - 6) << 23);
  out.inverse = __builtin_bit_cast(float, (127 + 127 + 6 - exponent) << 23);
  return out;
}

// 32 floats at x to int8; whether they were finite.
TGV_INLINE bool round_tile(RoundedTile& out, const float* x) {
  int32_t top = 0;
  for (int k = 0; k < 32; ++k) {
    const int32_t magnitude = static_cast<int32_t>(__builtin_bit_cast(uint32_t, x[k]) & 0x7fffffff);
    top = magnitude > top ? magnitude : top;
  }
  const Step step = step_of(top);
  out.scale = step.value;
  if (step.zero || step.bad) {
    for (int k = 0; k < 32; ++k) out.q[k] = 0;
    out.offset = 0;
    return !step.bad;
  }
  int32_t sum = 0;
  for (int k = 0; k < 32; ++k) {
    // Adding 1.5 * 2^23 leaves no bits for a fraction: nearest, ties to even; the low byte is q.
    const float shifted = x[k] * step.inverse + 12582912.0f;
    const int32_t level = static_cast<int32_t>(__builtin_bit_cast(uint32_t, shifted) - 0x4b400000u);
    out.q[k] = static_cast<int8_t>(level);
    sum += level;
  }
  out.offset = -8 * sum;
  return true;
}

using RoundTile = bool(RoundedTile& out, const float* x);

// kRoundTile: round_tile, or what an ISA does in its place with the same result.
template <RoundTile* kRoundTile = round_tile>
TGV_INLINE void round_tokens(const LinearInput& in, int64_t token_block, int64_t tile_begin,
                             int64_t tile_end) {
  const int64_t K = in.columns, first = token_block * kLinearTokens;
  const int64_t left = in.tokens - first, count = left < kLinearTokens ? left : kLinearTokens;
  for (int64_t t = tile_begin; t < tile_end; ++t) {
    const RoundedColumn out = rounded_column(in.rounded, in.tokens, K, first, count, t);
    for (int64_t m = 0; m < count; ++m) {
      const float* x = in.x + (first + m) * K + 32 * t;
      float padded[32] = {};
      if (32 * (t + 1) > K) {
        for (int64_t k = 32 * t; k < K; ++k) padded[k - 32 * t] = x[k - 32 * t];
        x = padded;
      }
      out.bad[m] = !kRoundTile(out.tile[m], x);
    }
  }
}

}  // namespace
}  // namespace tgv::cpu
