// Vectors for linear_rounded_body.h in plain C++: sixteen rows as arrays, which compilers vectorise
// with whatever they may use.
#pragma once

#include "kernels/cpu/linear_isa.h"

namespace tgv::cpu {
namespace {

constexpr int kLanes = 16, kTokenTile = 1, kBlockTile = 1, kVectors = 1, kAloneTokens = 0;
struct Ints {
  int32_t lane[kLanes];
};
struct Floats {
  float lane[kLanes];
};
struct Levels {
  int16_t level[32][kLanes];  // [k][row]
};

inline Levels unpack4(const uint8_t* tile) {
  Levels out;
  for (int i = 0; i < 4; ++i) {
    for (int r = 0; r < kLanes; ++r) {
      for (int j = 0; j < 4; ++j) {
        const uint8_t both = tile[64 * i + 4 * r + j];
        out.level[4 * i + j][r] = both & 15;
        out.level[16 + 4 * i + j][r] = both >> 4;
      }
    }
  }
  return out;
}

// 16 bits hold a product (1,905 at most) and the sum of sixteen; widened twice per block of 32 k.
template <int kCount, int kTokens>
inline void dots4(const Levels (&levels)[kCount], const RoundedTile* x,
                  Ints (&sums)[kTokens][kCount]) {
  for (int half = 0; half < 2; ++half) {
    int16_t part[kLanes] = {};
    for (int k = 16 * half; k < 16 * half + 16; ++k) {
      const int16_t value = x->q[k];
      for (int r = 0; r < kLanes; ++r) {
        part[r] = static_cast<int16_t>(part[r] + levels[0].level[k][r] * value);
      }
    }
    for (int r = 0; r < kLanes; ++r) sums[0][0].lane[r] += part[r];
  }
}

inline float from_half(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 31, fraction = half & 1023;
  if (exponent == 0) {  // zero and denormals: fraction * 2^-24, exact
    const float magnitude = static_cast<float>(fraction) * 5.9604644775390625e-8f;
    return sign ? -magnitude : magnitude;
  }
  const uint32_t bits =
      exponent == 31 ? 0x7f800000u | fraction << 13 : (exponent + 112) << 23 | fraction << 13;
  return __builtin_bit_cast(float, sign | bits);
}

inline Floats scales(const uint8_t* p) {
  Floats out;
  for (int r = 0; r < kLanes; ++r) {
    uint16_t half;
    __builtin_memcpy(&half, p + 2 * r, 2);
    out.lane[r] = from_half(half);
  }
  return out;
}
inline Ints zeros(const uint8_t* p) {
  Ints out;
  for (int r = 0; r < kLanes; ++r) out.lane[r] = p[r];
  return out;
}
inline Ints splat(int32_t x) {
  Ints out;
  for (int32_t& lane : out.lane) lane = x;
  return out;
}
inline Floats splat(float x) {
  Floats out;
  for (float& lane : out.lane) lane = x;
  return out;
}
inline Ints multiply(Ints a, const Ints& b) {
  for (int r = 0; r < kLanes; ++r) a.lane[r] *= b.lane[r];
  return a;
}
inline Floats multiply(Floats a, const Floats& b) {
  for (int r = 0; r < kLanes; ++r) a.lane[r] *= b.lane[r];
  return a;
}
inline Floats to_float(const Ints& x) {
  Floats out;
  for (int r = 0; r < kLanes; ++r) out.lane[r] = static_cast<float>(x.lane[r]);
  return out;
}
inline Floats fma(const Floats& a, const Floats& b, Floats c) {
  for (int r = 0; r < kLanes; ++r) c.lane[r] = __builtin_fmaf(a.lane[r], b.lane[r], c.lane[r]);
  return c;
}
inline Floats load(const float* p) {
  Floats out;
  __builtin_memcpy(out.lane, p, sizeof(out.lane));
  return out;
}
inline void store(float* p, const Floats& x) { __builtin_memcpy(p, x.lane, sizeof(x.lane)); }

}  // namespace
}  // namespace tgv::cpu
