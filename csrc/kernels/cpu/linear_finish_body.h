// linear_finish.h over sixteen lanes. Include after lanes16_*.h.
#pragma once

#include "kernels/cpu/linear_finish.h"

namespace tgv::cpu {
namespace {

// gelu_tanh(v) = v / (1 + exp(-2 u)), u = sqrt(2/pi) (v + 0.044715 v^3); exp(-2 u) = 2^z = 2^n 2^f
// with |f| <= 1/2 and the Taylor series of 2^f, whose first term left out is below 2^-27. Below
// -10, where the result is no more than 2e-37, it is 0.
TGV_INLINE Lanes gelu_tanh(Lanes v) {
  const Lanes linear = splat(-2.302208198f),
              cubic = splat(-0.1029432397f);  // -2 log2(e) sqrt(2/pi)
  const Lanes wanted = multiply(v, fma(multiply(v, v), cubic, linear));
  const Lanes z = smaller(larger(wanted, splat(-126.0f)), splat(126.0f));
  const Lanes magic = splat(12582912.0f);  // leaves no bits for a fraction
  const Lanes shifted = add(z, magic), f = subtract(z, subtract(shifted, magic));
  Lanes power = splat(1.5252734e-5f);  // ln(2)^k / k!, k = 7 first
  power = fma(power, f, splat(1.5403530e-4f));
  power = fma(power, f, splat(1.3333558e-3f));
  power = fma(power, f, splat(9.6181291e-3f));
  power = fma(power, f, splat(5.5504109e-2f));
  power = fma(power, f, splat(2.4022651e-1f));
  power = fma(power, f, splat(6.9314718e-1f));
  power = fma(power, f, splat(1.0f));
  const Lanes divisor = fma(power, power_of_two(shifted), splat(1.0f));
  return zero_below(v, -10.0f, divide(v, divisor));
}

TGV_INLINE void write(float* out, const Lanes& x, bool stream) {
#if defined(__AVX512F__)
  if (stream) return _mm512_stream_ps(out, x);
#endif
  (void)stream;
  store(out, x);
}

template <bool kGelu>
TGV_INLINE void finish_block(const Target& to, const float* sums, int64_t stride, int64_t tokens,
                             int64_t row, const Lanes& bias) {
  const int64_t left = to.rows - row;
  for (int64_t m = 0; m < tokens; ++m) {
    Lanes x = add(load(sums + m * stride + row), bias);
    if (kGelu) x = gelu_tanh(x);
    float* const out = to.at + m * to.stride + row;
    if (left >= 16) {
      write(out, x, to.stream);
    } else {
      store_some(out, x, left);
    }
  }
}

inline void finish(const Linear& w, const Target& to, const float* sums, int64_t tokens,
                   int64_t first_row, int blocks) {
  for (int b = 0; b < blocks; ++b) {
    const int64_t row = 16 * b, known = w.shape.rows - first_row - row;
    // -0 is what leaves every sum as it is.
    const Lanes bias =
        w.bias ? load_some(w.bias + first_row + row, known < 16 ? known : 16) : splat(-0.0f);
    if (w.activation == Activation::kGeluTanh) {
      finish_block<true>(to, sums, 16 * blocks, tokens, row, bias);
    } else {
      finish_block<false>(to, sums, 16 * blocks, tokens, row, bias);
    }
  }
}

}  // namespace
}  // namespace tgv::cpu
