// What becomes of the sums of a block of rows: bias, activation, y. Compiled once per ISA.
#pragma once

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "kernels/cpu/linear_isa.h"

namespace tgv::cpu {
namespace {

// gelu_tanh(v) = v / (1 + exp(-2 u)), u = sqrt(2/pi) (v + 0.044715 v^3). exp by 2^n p(r), relative
// error below 3 * 2^-24; the argument is kept where 2^n is a normal number, and below -10, where
// the result is no more than 2e-37, it is 0.
TGV_INLINE float gelu_tanh(float v) {
  const float u = 0.7978845608028654f * (v + 0.044715f * v * v * v);
  const float wanted = -2.0f * u;
  float e = wanted > 87.0f ? 87.0f : wanted;
  e = e < -87.0f ? -87.0f : e;
  const float shifted = e * 1.4426950408889634f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (e - n * 0.693145751953125f) - n * 1.4286068203094172e-6f;  // ln 2 in two parts
  float poly = 1.0f / 5040.0f;
  poly = poly * r + 1.0f / 720.0f;
  poly = poly * r + 1.0f / 120.0f;
  poly = poly * r + 1.0f / 24.0f;
  poly = poly * r + 1.0f / 6.0f;
  poly = poly * r + 0.5f;
  poly = poly * r + 1.0f;
  poly = poly * r + 1.0f;
  const uint32_t exponent = (__builtin_bit_cast(uint32_t, shifted) - 0x4b400000u) << 23;
  const float power = __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, poly) + exponent);
  return wanted > 87.0f ? -0.0f : v / (1.0f + power);
}

// Where rows of a strip go: out of row r of the strip and its token m is at[m * stride + r].
struct Target {
  float* at;
  int64_t stride;
  int64_t rows;  // that may be written
  bool stream;   // past the caches: nobody reads it before they are full of other things
};

TGV_INLINE void write16(float* out, const float* values, bool stream) {
#if defined(__AVX512F__)
  if (stream) return _mm512_stream_ps(out, _mm512_loadu_ps(values));
#endif
  (void)stream;
  __builtin_memcpy(out, values, 16 * sizeof(float));
}

// Makes what was streamed visible to whoever the caller tells that it is there.
TGV_INLINE void end_streams() {
#if defined(__AVX512F__)
  _mm_sfence();
#endif
}

// The rows first_row .. of y itself.
TGV_INLINE Target target_of(const Linear& w, const LinearInput& in, float* y, int64_t first_token,
                            int64_t first_row) {
  float* const at = y + first_token * w.shape.rows + first_row;
  const bool lines = reinterpret_cast<uintptr_t>(at) % 64 == 0 && w.shape.rows % 16 == 0;
  return {at, w.shape.rows, w.shape.rows - first_row, lines && in.tokens > kLinearTokens};
}

// sums: 16 accumulators of token m, rows row .. row + 15 of the strip, first_row + row of W.
TGV_INLINE void finish(const Linear& w, const Target& to, int64_t m, int64_t row, int64_t first_row,
                       const float* sums) {
  const int64_t known = w.shape.rows - first_row - row, have = known < 16 ? known : 16;
  float values[16], bias[16] = {};
  if (w.bias) {
    for (int64_t r = 0; r < have; ++r) bias[r] = w.bias[first_row + row + r];
  }
  for (int r = 0; r < 16; ++r) values[r] = w.bias ? sums[r] + bias[r] : sums[r];
  if (w.activation == Activation::kGeluTanh) {
    for (int r = 0; r < 16; ++r) values[r] = gelu_tanh(values[r]);
  }
  float* out = to.at + m * to.stride + row;
  if (to.rows - row >= 16) return write16(out, values, to.stream);
  for (int64_t r = 0; r < to.rows - row; ++r) out[r] = values[r];
}

}  // namespace
}  // namespace tgv::cpu
