// Rounding of activations, compiled once per ISA. Nothing of the standard library is called
// (cmake/isa.cmake says why).
#pragma once

#include "kernels/cpu/linear_isa.h"

namespace tgv::cpu {
namespace {

// The step of 32 activations: the power of two that takes the largest to 64..127 levels.
struct Step {
  float base, inverse;
  bool empty;  // every level is 0
};

// top: the bits of the largest magnitude, which order as floats do and put NaN and infinity on top.
TGV_INLINE Step step_of(int32_t top) {
  // 127.5 / 64 and more would round to 128 levels; the carry doubles the step.
  const int32_t exponent = (top + 0x10000) >> 23;
  if (exponent > kMostExponent) return {__builtin_nanf(""), 0.0f, true};
  if (exponent < kLeastExponent) return {12582912.0f, 0.0f, true};
  return {__builtin_bit_cast(float, ((exponent - 6 + 23) << 23) + 0x400000),
          __builtin_bit_cast(float, (127 + 127 + 6 - exponent) << 23), false};
}

// levels: the sum of q.
TGV_INLINE void set_base(RoundedTile& out, const Step& step, int32_t levels) {
  out.base = step.base;
  out.start = __builtin_bit_cast(int32_t, step.base) - 8 * levels;
}

// 32 floats at x to int8.
TGV_INLINE void round_tile(RoundedTile& out, const float* x) {
  int32_t top = 0;
  for (int k = 0; k < 32; ++k) {
    const int32_t magnitude = static_cast<int32_t>(__builtin_bit_cast(uint32_t, x[k]) & 0x7fffffff);
    top = magnitude > top ? magnitude : top;
  }
  const Step step = step_of(top);
  if (step.empty) {
    for (int k = 0; k < 32; ++k) out.q[k] = 0;
    return set_base(out, step, 0);
  }
  int32_t sum = 0;
  for (int k = 0; k < 32; ++k) {
    // Adding 1.5 * 2^23 leaves no bits for a fraction: nearest, ties to even; the low byte is q.
    const float shifted = x[k] * step.inverse + 12582912.0f;
    const int32_t level = static_cast<int32_t>(__builtin_bit_cast(uint32_t, shifted) - 0x4b400000u);
    out.q[k] = static_cast<int8_t>(level);
    sum += level;
  }
  set_base(out, step, sum);
}

using RoundTile = void(RoundedTile& out, const float* x);

// kRoundTile: round_tile, or what an ISA does in its place with the same result.
template <RoundTile* kRoundTile = round_tile>
TGV_INLINE void round_tokens(const LinearInput& in, int64_t token_block, int64_t tile_begin,
                             int64_t tile_end) {
  const int64_t K = in.columns, first = token_block * kLinearTokens;
  const int64_t left = in.tokens - first, count = left < kLinearTokens ? left : kLinearTokens;
  for (int64_t t = tile_begin; t < tile_end; ++t) {
    RoundedTile* const out = rounded_column(in.rounded, K, first, count, t);
    for (int64_t m = 0; m < count; ++m) {
      const float* x = in.x + (first + m) * K + 32 * t;
      float padded[32] = {};
      if (32 * (t + 1) > K) {
        for (int64_t k = 32 * t; k < K; ++k) padded[k - 32 * t] = x[k - 32 * t];
        x = padded;
      }
      kRoundTile(out[m], x);
    }
  }
}

}  // namespace
}  // namespace tgv::cpu
