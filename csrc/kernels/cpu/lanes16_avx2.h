// lanes16_portable.h for AVX2 with FMA and F16C: two registers, lanes 0..7 and 8..15.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/lanes16_inline.h"

namespace tgv::cpu {
namespace {

struct Lanes {
  __m256 low, high;
};

TGV_INLINE __m256i first_lanes(int64_t n) {  // all bits of the first n of 8; n may be negative
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
}

TGV_INLINE Lanes load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
TGV_INLINE void store(float* p, Lanes x) {
  _mm256_storeu_ps(p, x.low);
  _mm256_storeu_ps(p + 8, x.high);
}
TGV_INLINE Lanes load_some(const float* p, int64_t n) {
  return {_mm256_maskload_ps(p, first_lanes(n)), _mm256_maskload_ps(p + 8, first_lanes(n - 8))};
}
TGV_INLINE void store_some(float* p, Lanes x, int64_t n) {
  _mm256_maskstore_ps(p, first_lanes(n), x.low);
  _mm256_maskstore_ps(p + 8, first_lanes(n - 8), x.high);
}
TGV_INLINE Lanes splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
TGV_INLINE Lanes add(Lanes a, Lanes b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
TGV_INLINE Lanes subtract(Lanes a, Lanes b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
TGV_INLINE Lanes multiply(Lanes a, Lanes b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
TGV_INLINE Lanes divide(Lanes a, Lanes b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
TGV_INLINE Lanes fma(Lanes a, Lanes b, Lanes c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
TGV_INLINE Lanes larger(Lanes a, Lanes b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
TGV_INLINE Lanes smaller(Lanes a, Lanes b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
TGV_INLINE __m256 zero_below(__m256 x, __m256 limit, __m256 value) {
  return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_NLT_UQ), value);
}
TGV_INLINE Lanes zero_below(Lanes x, float limit, Lanes value) {
  const __m256 limits = _mm256_set1_ps(limit);
  return {zero_below(x.low, limits, value.low), zero_below(x.high, limits, value.high)};
}
TGV_INLINE Lanes keep_first(Lanes x, int64_t n, float other) {
  const __m256 others = _mm256_set1_ps(other);
  return {_mm256_blendv_ps(others, x.low, _mm256_castsi256_ps(first_lanes(n))),
          _mm256_blendv_ps(others, x.high, _mm256_castsi256_ps(first_lanes(n - 8)))};
}
TGV_INLINE __m256 power_of_two(__m256 shifted) {
  const __m256i n =
      _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(0x4b400000 - 127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(n, 23));
}
TGV_INLINE Lanes power_of_two(Lanes shifted) {
  return {power_of_two(shifted.low), power_of_two(shifted.high)};
}

TGV_INLINE Lanes from_half(const void* p) {
  const auto* codes = static_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(codes)), _mm256_cvtph_ps(_mm_loadu_si128(codes + 1))};
}
TGV_INLINE __m256 from_bfloat16(__m128i codes) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(codes), 16));
}
TGV_INLINE Lanes from_bfloat16(const void* p) {
  const auto* codes = static_cast<const __m128i*>(p);
  return {from_bfloat16(_mm_loadu_si128(codes)), from_bfloat16(_mm_loadu_si128(codes + 1))};
}

TGV_INLINE void to_half(void* p, Lanes x) {
  auto* const codes = static_cast<__m128i*>(p);
  _mm_storeu_si128(codes, _mm256_cvtps_ph(x.low, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(codes + 1, _mm256_cvtps_ph(x.high, _MM_FROUND_TO_NEAREST_INT));
}
TGV_INLINE __m256i to_bfloat16(__m256 x) {  // in the lower half of each lane
  const __m256i bits = _mm256_castps_si256(x), high = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(
      _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(rounded, _mm256_or_si256(high, _mm256_set1_epi32(0x40)), nan);
}
// Eight and eight lanes of 0..65535 or -32768..32767, in order, as 16 bits each.
TGV_INLINE __m256i narrow(__m256i low, __m256i high, bool is_signed) {
  const __m256i mixed = is_signed ? _mm256_packs_epi32(low, high) : _mm256_packus_epi32(low, high);
  return _mm256_permute4x64_epi64(mixed, 0xd8);
}
TGV_INLINE void to_bfloat16(void* p, Lanes x) {
  _mm256_storeu_si256(static_cast<__m256i*>(p),
                      narrow(to_bfloat16(x.low), to_bfloat16(x.high), false));
}
TGV_INLINE void to_int8(void* p, Lanes x) {
  const __m256i words = narrow(_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high), true);
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm_packs_epi16(_mm256_castsi256_si128(words),
                                                             _mm256_extracti128_si256(words, 1)));
}

TGV_INLINE float sum(Lanes x) {
  const __m256 a = _mm256_add_ps(x.low, x.high);
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
TGV_INLINE float largest(Lanes x) {
  const __m256 a = _mm256_max_ps(x.low, x.high);
  const __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

// Sums of eight vectors, whose lanes i and i + 8 are added already.
TGV_INLINE __m256 sums_of_eight(const __m256 (&x)[8]) {
  __m256 a[4], b[2];
  for (int i = 0; i < 4; ++i) {  // halves: of x[i] and x[i + 4]
    a[i] = _mm256_add_ps(_mm256_blend_ps(x[i], x[i + 4], 0xf0),
                         _mm256_permute2f128_ps(x[i], x[i + 4], 0x21));
  }
  for (int i = 0; i < 2; ++i) {
    const __m256d low = _mm256_castps_pd(a[i]), high = _mm256_castps_pd(a[i + 2]);
    b[i] = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(low, high)),
                         _mm256_castpd_ps(_mm256_unpackhi_pd(low, high)));
  }
  const __m256 mixed =
      _mm256_add_ps(_mm256_shuffle_ps(b[0], b[1], 0x88), _mm256_shuffle_ps(b[0], b[1], 0xdd));
  return _mm256_permute_ps(mixed, 0xd8);  // 0 2 1 3 in each half
}
TGV_INLINE Lanes sums(const Lanes (&x)[16]) {
  __m256 low[8], high[8];
  for (int i = 0; i < 8; ++i) {
    low[i] = _mm256_add_ps(x[i].low, x[i].high);
    high[i] = _mm256_add_ps(x[i + 8].low, x[i + 8].high);
  }
  return {sums_of_eight(low), sums_of_eight(high)};
}

TGV_INLINE void transpose_eight(__m256 (&x)[8]) {
  __m256 y[8];
  for (int i = 0; i < 8; i += 2) {
    y[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
    y[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      const __m256d low = _mm256_castps_pd(y[i + j]), high = _mm256_castps_pd(y[i + 2 + j]);
      x[i + 2 * j] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, high));
      x[i + 2 * j + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, high));
    }
  }
  for (int c = 0; c < 4; ++c) {
    y[c] = _mm256_permute2f128_ps(x[c], x[4 + c], 0x20);
    y[4 + c] = _mm256_permute2f128_ps(x[c], x[4 + c], 0x31);
  }
  for (int i = 0; i < 8; ++i) x[i] = y[i];
}
TGV_INLINE void transpose(Lanes (&x)[16]) {
  __m256 a[8], b[8], c[8], d[8];  // [upper, lower rows] by [left, right lanes]
  for (int i = 0; i < 8; ++i) {
    a[i] = x[i].low, b[i] = x[i].high, c[i] = x[i + 8].low, d[i] = x[i + 8].high;
  }
  transpose_eight(a);
  transpose_eight(b);
  transpose_eight(c);
  transpose_eight(d);
  for (int i = 0; i < 8; ++i) x[i] = {a[i], c[i]}, x[i + 8] = {b[i], d[i]};
}

constexpr int kScoreQueries = 3, kScorePages = 1, kValueQueries = 1;

}  // namespace
}  // namespace tgv::cpu
