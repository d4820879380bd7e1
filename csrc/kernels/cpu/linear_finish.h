// What becomes of the sums of a block of rows: bias, activation, y. Compiled once per ISA.
#pragma once

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

// sums: 16 accumulators of one token; rows first_row .. first_row + 15, those below N are written.
TGV_INLINE void finish(const Linear& w, float* y, int64_t token, int64_t first_row,
                       const float* sums) {
  const int64_t left = w.shape.rows - first_row, count = left < 16 ? left : 16;
  float values[16], bias[16] = {};
  if (w.bias) {
    for (int64_t r = 0; r < count; ++r) bias[r] = w.bias[first_row + r];
  }
  for (int r = 0; r < 16; ++r) values[r] = w.bias ? sums[r] + bias[r] : sums[r];
  if (w.activation == Activation::kGeluTanh) {
    for (int r = 0; r < 16; ++r) values[r] = gelu_tanh(values[r]);
  }
  float* out = y + token * w.shape.rows + first_row;
  if (count == 16) {
    __builtin_memcpy(out, values, sizeof(values));
  } else {
    for (int64_t r = 0; r < count; ++r) out[r] = values[r];
  }
}

}  // namespace
}  // namespace tgv::cpu
