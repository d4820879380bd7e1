// Sixteen lanes of two int16 and their dot products in int32, in plain C++: what attention over
// int8 pages is written over. Integers are exact, so pairs16_avx2.h and pairs16_avx512.h give the
// same in any order of addition.
#pragma once

#include <cstdint>

#include "kernels/cpu/lanes16_portable.h"

namespace tgv::cpu {
namespace {

struct Pairs {
  int16_t at[32];  // lane i: 2 i and 2 i + 1
};
struct Counts {
  int32_t lane[16];
};

TGV_INLINE Pairs load_pairs(const void* p) {
  Pairs out;
  __builtin_memcpy(out.at, p, sizeof(out.at));
  return out;
}
TGV_INLINE void store_pairs(void* p, const Pairs& x) { __builtin_memcpy(p, x.at, sizeof(x.at)); }
// The pair at p in every lane.
TGV_INLINE Pairs splat_pair(const void* p) {
  int16_t pair[2];
  __builtin_memcpy(pair, p, sizeof(pair));
  Pairs out;
  for (int i = 0; i < 32; ++i) out.at[i] = pair[i % 2];
  return out;
}
// The first n of 32 int8 in a row, n a multiple of 4, the others 0; nothing is read there.
TGV_INLINE Pairs pairs_of_int8(const uint8_t* p, int64_t n) {
  int8_t levels[32] = {};
  __builtin_memcpy(levels, p, static_cast<size_t>(n));
  Pairs out;
  for (int i = 0; i < 32; ++i) out.at[i] = levels[i];
  return out;
}
// Lane i: int8 a[i] and b[i]. The first n lanes, n a multiple of 4, the others 0.
TGV_INLINE Pairs interleaved_int8(const uint8_t* a, const uint8_t* b, int64_t n) {
  int8_t first[16] = {}, second[16] = {};
  __builtin_memcpy(first, a, static_cast<size_t>(n));
  __builtin_memcpy(second, b, static_cast<size_t>(n));
  Pairs out;
  for (int i = 0; i < 16; ++i) out.at[2 * i] = first[i], out.at[2 * i + 1] = second[i];
  return out;
}
// Lane i of x[j] <-> lane j of x[i]
TGV_INLINE void transpose(Pairs (&x)[16]) {
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < i; ++j) {
      for (int part = 0; part < 2; ++part) {
        const int16_t other = x[i].at[2 * j + part];
        x[i].at[2 * j + part] = x[j].at[2 * i + part];
        x[j].at[2 * i + part] = other;
      }
    }
  }
}

TGV_INLINE Counts no_counts() { return {}; }
TGV_INLINE Counts load_counts(const void* p) {
  Counts out;
  __builtin_memcpy(out.lane, p, sizeof(out.lane));
  return out;
}
TGV_INLINE void store_counts(void* p, const Counts& x) {
  __builtin_memcpy(p, x.lane, sizeof(x.lane));
}
// c + a . b of each lane's pairs; the caller keeps it within int32.
TGV_INLINE Counts dot(const Pairs& a, const Pairs& b, Counts c) {
  for (int i = 0; i < 16; ++i) {
    c.lane[i] += a.at[2 * i] * b.at[2 * i] + a.at[2 * i + 1] * b.at[2 * i + 1];
  }
  return c;
}
// Lane i of the result is the sum of the lanes of x[i].
TGV_INLINE Counts sums(const Counts (&x)[16]) {
  Counts out = {};
  for (int i = 0; i < 16; ++i) {
    for (const int32_t each : x[i].lane) out.lane[i] += each;
  }
  return out;
}
TGV_INLINE Lanes to_float(const Counts& x) {
  Lanes out;
  for (int i = 0; i < 16; ++i) out.lane[i] = static_cast<float>(x.lane[i]);
  return out;
}
// Sixteen int16, rounded to nearest, ties to even, at most 32767; of -32767.5 .. 32768.
TGV_INLINE void to_int16(void* p, const Lanes& x) {
  int16_t levels[16];
  for (int i = 0; i < 16; ++i) {
    const float rounded = __builtin_rintf(x.lane[i]);
    levels[i] = static_cast<int16_t>(rounded > 32767.0f ? 32767.0f : rounded);
  }
  __builtin_memcpy(p, levels, sizeof(levels));
}
TGV_INLINE Lanes magnitude(Lanes x) {
  for (float& lane : x.lane) lane = __builtin_fabsf(lane);
  return x;
}

// How many queries and pages share a register block.
constexpr int kPairScoreQueries = 1, kPairScorePages = 1, kPairValueQueries = 1;

}  // namespace
}  // namespace tgv::cpu
