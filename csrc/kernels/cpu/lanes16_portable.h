// Sixteen float lanes in plain C++, as arrays, which compilers vectorise with whatever they may
// use. The functions here are the vector type that paged_attention_body.h and qkv_append_body.h are
// written over; lanes16_avx2.h and lanes16_avx512.h have the same with the same results, to the
// bit.
#pragma once

#include <cstdint>

#include "base/float16.h"
#include "kernels/cpu/lanes16_inline.h"

namespace tgv::cpu {
namespace {

struct Lanes {
  float lane[16];
};

TGV_INLINE Lanes load(const float* p) {
  Lanes out;
  __builtin_memcpy(out.lane, p, sizeof(out.lane));
  return out;
}
TGV_INLINE void store(float* p, const Lanes& x) { __builtin_memcpy(p, x.lane, sizeof(x.lane)); }
// The first n lanes, 0 <= n <= 16; the others are 0, and nothing is read there.
TGV_INLINE Lanes load_some(const float* p, int64_t n) {
  Lanes out = {};
  for (int64_t i = 0; i < n; ++i) out.lane[i] = p[i];
  return out;
}
TGV_INLINE void store_some(float* p, const Lanes& x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = x.lane[i];
}
TGV_INLINE Lanes splat(float x) {
  Lanes out;
  for (float& lane : out.lane) lane = x;
  return out;
}
TGV_INLINE Lanes add(Lanes a, const Lanes& b) {
  for (int i = 0; i < 16; ++i) a.lane[i] += b.lane[i];
  return a;
}
TGV_INLINE Lanes subtract(Lanes a, const Lanes& b) {
  for (int i = 0; i < 16; ++i) a.lane[i] -= b.lane[i];
  return a;
}
TGV_INLINE Lanes multiply(Lanes a, const Lanes& b) {
  for (int i = 0; i < 16; ++i) a.lane[i] *= b.lane[i];
  return a;
}
TGV_INLINE Lanes divide(Lanes a, const Lanes& b) {
  for (int i = 0; i < 16; ++i) a.lane[i] /= b.lane[i];
  return a;
}
// a b + c, rounded once.
TGV_INLINE Lanes fma(const Lanes& a, const Lanes& b, Lanes c) {
  for (int i = 0; i < 16; ++i) c.lane[i] = __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]);
  return c;
}
// a > b ? a : b and a < b ? a : b, so b where either is NaN.
TGV_INLINE Lanes larger(const Lanes& a, Lanes b) {
  for (int i = 0; i < 16; ++i) b.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
  return b;
}
TGV_INLINE Lanes smaller(const Lanes& a, Lanes b) {
  for (int i = 0; i < 16; ++i) b.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
  return b;
}
// x < limit ? 0 : value
TGV_INLINE Lanes zero_below(const Lanes& x, float limit, Lanes value) {
  for (int i = 0; i < 16; ++i) value.lane[i] = x.lane[i] < limit ? 0.0f : value.lane[i];
  return value;
}
// The first n lanes of x, 0 <= n <= 16, the others `other`.
TGV_INLINE Lanes keep_first(Lanes x, int64_t n, float other) {
  for (int64_t i = 0; i < 16; ++i) x.lane[i] = i < n ? x.lane[i] : other;
  return x;
}
// 2^n of lanes that hold n + 1.5 * 2^23, -127 <= n <= 127; of others anything.
TGV_INLINE Lanes power_of_two(Lanes shifted) {
  for (float& lane : shifted.lane) {
    lane =
        __builtin_bit_cast(float, (__builtin_bit_cast(uint32_t, lane) - 0x4b400000u + 127u) << 23);
  }
  return shifted;
}

// Sixteen elements of a kind at any address.
TGV_INLINE Lanes from_half(const void* p) {
  uint16_t codes[16];
  __builtin_memcpy(codes, p, sizeof(codes));
  Lanes out;
  for (int i = 0; i < 16; ++i) out.lane[i] = half_to_float(codes[i]);
  return out;
}
TGV_INLINE Lanes from_bfloat16(const void* p) {
  uint16_t codes[16];
  __builtin_memcpy(codes, p, sizeof(codes));
  Lanes out;
  for (int i = 0; i < 16; ++i) {
    out.lane[i] = bfloat16_to_float(codes[i]);
  }
  return out;
}

// The reverse, rounded to nearest, ties to even; NaN stays NaN. to_int8 takes integers in
// -128..127.
TGV_INLINE void to_half(void* p, const Lanes& x) {
  uint16_t codes[16];
  for (int i = 0; i < 16; ++i) codes[i] = float_to_half(x.lane[i]);
  __builtin_memcpy(p, codes, sizeof(codes));
}
TGV_INLINE void to_bfloat16(void* p, const Lanes& x) {
  uint16_t codes[16];
  for (int i = 0; i < 16; ++i) codes[i] = float_to_bfloat16(x.lane[i]);
  __builtin_memcpy(p, codes, sizeof(codes));
}
TGV_INLINE void to_int8(void* p, const Lanes& x) {
  int8_t levels[16];
  for (int i = 0; i < 16; ++i) levels[i] = static_cast<int8_t>(x.lane[i]);
  __builtin_memcpy(p, levels, sizeof(levels));
}

// Lanes reduced by one tree: i with i + 8, then i + 4, i + 2, i + 1.
TGV_INLINE float sum(Lanes x) {
  for (int step = 8; step; step /= 2) {
    for (int i = 0; i < step; ++i) x.lane[i] += x.lane[i + step];
  }
  return x.lane[0];
}
TGV_INLINE float largest(Lanes x) {
  for (int step = 8; step; step /= 2) {
    for (int i = 0; i < step; ++i) {
      x.lane[i] = x.lane[i] > x.lane[i + step] ? x.lane[i] : x.lane[i + step];
    }
  }
  return x.lane[0];
}
// Lane i of the result is sum(x[i]).
TGV_INLINE Lanes sums(const Lanes (&x)[16]) {
  Lanes out;
  for (int i = 0; i < 16; ++i) out.lane[i] = sum(x[i]);
  return out;
}
// x[i].lane[j] <-> x[j].lane[i]
TGV_INLINE void transpose(Lanes (&x)[16]) {
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < i; ++j) {
      const float other = x[i].lane[j];
      x[i].lane[j] = x[j].lane[i];
      x[j].lane[i] = other;
    }
  }
}

// How many queries and pages share a register block (paged_attention_many.h).
constexpr int kScoreQueries = 1, kScorePages = 1, kValueQueries = 1;

}  // namespace
}  // namespace tgv::cpu
