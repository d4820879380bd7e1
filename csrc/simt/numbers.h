// Half, bfloat16 and the two fp8 kinds for a host that has no CUDA headers. One rounding routine
// for all four. tests/native/test_simt.py compares every code and every rounding boundary with
// torch.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

namespace simt {

// A binary float with `mantissa` stored bits whose smallest normal number is 2^min_exponent.
struct Format {
  int mantissa;
  int min_exponent;
  uint32_t max_code;  // the largest finite magnitude
  uint32_t nan_code;
  bool saturates;  // a larger magnitude becomes max_code; otherwise max_code + 1, which is infinity
  uint32_t sign_bit;
};

inline constexpr Format kHalf = {10, -14, 0x7bff, 0x7fff, false, 0x8000};
inline constexpr Format kBFloat16 = {7, -126, 0x7f7f, 0x7fff, false, 0x8000};
// As cvt.rn.satfinite writes them: nothing overflows to infinity.
inline constexpr Format kE4M3 = {3, -6, 0x7e, 0x7f, true, 0x80};
inline constexpr Format kE5M2 = {2, -14, 0x7b, 0x7f, true, 0x80};

// Round to nearest, ties to even.
inline uint32_t encode(const Format& f, float value) {
  const uint32_t sign = std::signbit(value) ? f.sign_bit : 0;
  if (std::isnan(value)) return sign | f.nan_code;
  const double magnitude = std::fabs(static_cast<double>(value));
  if (std::isinf(magnitude)) return sign | (f.saturates ? f.max_code : f.max_code + 1);
  if (magnitude == 0) return sign;
  int exponent = std::ilogb(magnitude);
  if (exponent < f.min_exponent)
    exponent = f.min_exponent;  // subnormals keep the smallest normal's step
  const double steps = std::nearbyint(std::ldexp(magnitude, f.mantissa - exponent));
  // Codes count steps: one binade further is 2^mantissa codes further, and a carry out of the
  // mantissa is right too.
  const uint64_t code = (static_cast<uint64_t>(exponent - f.min_exponent) << f.mantissa) +
                        static_cast<uint64_t>(steps);
  if (code > f.max_code) return sign | (f.saturates ? f.max_code : f.max_code + 1);
  return sign | static_cast<uint32_t>(code);
}

inline float decode(const Format& f, uint32_t code) {
  const float sign = code & f.sign_bit ? -1.0f : 1.0f;
  const uint32_t magnitude = code & (f.sign_bit - 1);
  if (magnitude > f.max_code) {
    const bool has_infinity = f.max_code + 1 != f.nan_code;
    const bool infinite = has_infinity && magnitude == f.max_code + 1;
    return sign * (infinite ? std::numeric_limits<float>::infinity()
                            : std::numeric_limits<float>::quiet_NaN());
  }
  const uint32_t top = magnitude >> f.mantissa;  // 0 for subnormals
  const uint32_t fraction = magnitude & ((1u << f.mantissa) - 1);
  const double steps = top ? fraction + (1u << f.mantissa) : fraction;
  const int exponent = f.min_exponent + (top ? static_cast<int>(top) - 1 : 0);
  return sign * static_cast<float>(std::ldexp(steps, exponent - f.mantissa));
}

// The emulated tensor core decodes millions of halves: a table instead of ldexp.
inline float half_to_float(uint16_t code) {
  static const auto* table = [] {
    auto* values = new std::array<float, 65536>;
    for (uint32_t i = 0; i < 65536; ++i) (*values)[i] = decode(kHalf, i);
    return values;
  }();
  return (*table)[code];
}

inline uint16_t float_to_half(float value) { return static_cast<uint16_t>(encode(kHalf, value)); }

inline float bfloat16_to_float(uint16_t code) { return decode(kBFloat16, code); }

inline uint16_t float_to_bfloat16(float value) {
  return static_cast<uint16_t>(encode(kBFloat16, value));
}

}  // namespace simt
