// pairs16_portable.h for AVX2: two registers, lanes 0..7 and 8..15.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/lanes16_avx2.h"

namespace tgv::cpu {
namespace {

struct Pairs {
  __m256i low, high;
};
struct Counts {
  __m256i low, high;
};

TGV_INLINE __m256i load_bits(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
TGV_INLINE void store_bits(void* p, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
TGV_INLINE __m128i load_levels(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}

TGV_INLINE Pairs load_pairs(const void* p) {
  return {load_bits(p), load_bits(static_cast<const uint8_t*>(p) + 32)};
}
TGV_INLINE void store_pairs(void* p, Pairs x) {
  store_bits(p, x.low);
  store_bits(static_cast<uint8_t*>(p) + 32, x.high);
}
TGV_INLINE Pairs splat_pair(const void* p) {
  int pair;
  __builtin_memcpy(&pair, p, sizeof(pair));
  return {_mm256_set1_epi32(pair), _mm256_set1_epi32(pair)};
}
TGV_INLINE Pairs pairs_of_int8(const uint8_t* p, int64_t n) {
  if (n == 16) return {_mm256_cvtepi8_epi16(load_levels(p)), _mm256_setzero_si256()};
  alignas(32) uint8_t copy[32] = {};
  if (n < 32) __builtin_memcpy(copy, p, static_cast<size_t>(n)), p = copy;
  return {_mm256_cvtepi8_epi16(load_levels(p)), _mm256_cvtepi8_epi16(load_levels(p + 16))};
}
TGV_INLINE Pairs interleaved_int8(const uint8_t* a, const uint8_t* b, int64_t n) {
  alignas(16) uint8_t copy[32] = {};
  if (n < 16) {
    __builtin_memcpy(copy, a, static_cast<size_t>(n));
    __builtin_memcpy(copy + 16, b, static_cast<size_t>(n));
    a = copy, b = copy + 16;
  }
  const __m128i x = load_levels(a), y = load_levels(b);
  return {_mm256_cvtepi8_epi16(_mm_unpacklo_epi8(x, y)),
          _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(x, y))};
}
TGV_INLINE void transpose(Pairs (&x)[16]) {
  Lanes y[16];
  for (int i = 0; i < 16; ++i) {
    y[i] = {_mm256_castsi256_ps(x[i].low), _mm256_castsi256_ps(x[i].high)};
  }
  transpose(y);
  for (int i = 0; i < 16; ++i) {
    x[i] = {_mm256_castps_si256(y[i].low), _mm256_castps_si256(y[i].high)};
  }
}

TGV_INLINE Counts no_counts() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
TGV_INLINE Counts load_counts(const void* p) {
  return {load_bits(p), load_bits(static_cast<const uint8_t*>(p) + 32)};
}
TGV_INLINE void store_counts(void* p, Counts x) {
  store_bits(p, x.low);
  store_bits(static_cast<uint8_t*>(p) + 32, x.high);
}
TGV_INLINE Counts dot(Pairs a, Pairs b, Counts c) {
  return {_mm256_add_epi32(c.low, _mm256_madd_epi16(a.low, b.low)),
          _mm256_add_epi32(c.high, _mm256_madd_epi16(a.high, b.high))};
}
TGV_INLINE __m256i sums_of_eight(const __m256i (&x)[8]) {
  const __m256i a = _mm256_hadd_epi32(_mm256_hadd_epi32(x[0], x[1]), _mm256_hadd_epi32(x[2], x[3]));
  const __m256i b = _mm256_hadd_epi32(_mm256_hadd_epi32(x[4], x[5]), _mm256_hadd_epi32(x[6], x[7]));
  return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20),
                          _mm256_permute2x128_si256(a, b, 0x31));
}
TGV_INLINE Counts sums(const Counts (&x)[16]) {
  __m256i low[8], high[8];
  for (int i = 0; i < 8; ++i) {
    low[i] = _mm256_add_epi32(x[i].low, x[i].high);
    high[i] = _mm256_add_epi32(x[i + 8].low, x[i + 8].high);
  }
  return {sums_of_eight(low), sums_of_eight(high)};
}
TGV_INLINE Lanes to_float(Counts x) {
  return {_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)};
}
TGV_INLINE void to_int16(void* p, Lanes x) {
  store_bits(p, narrow(_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high), true));
}
TGV_INLINE Lanes magnitude(Lanes x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.low), _mm256_andnot_ps(sign, x.high)};
}

constexpr int kPairScoreQueries = 3, kPairScorePages = 1, kPairValueQueries = 1;

}  // namespace
}  // namespace tgv::cpu
