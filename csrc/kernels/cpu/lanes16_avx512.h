// lanes16_portable.h for AVX-512 F, BW, VL and DQ: one register.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/lanes16_inline.h"

namespace tgv::cpu {
namespace {

using Lanes = __m512;

TGV_INLINE __mmask16 first_lanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }

TGV_INLINE Lanes load(const float* p) { return _mm512_loadu_ps(p); }
TGV_INLINE void store(float* p, Lanes x) { _mm512_storeu_ps(p, x); }
TGV_INLINE Lanes load_some(const float* p, int64_t n) {
  return _mm512_maskz_loadu_ps(first_lanes(n), p);
}
TGV_INLINE void store_some(float* p, Lanes x, int64_t n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), x);
}
TGV_INLINE Lanes splat(float x) { return _mm512_set1_ps(x); }
TGV_INLINE Lanes add(Lanes a, Lanes b) { return _mm512_add_ps(a, b); }
TGV_INLINE Lanes subtract(Lanes a, Lanes b) { return _mm512_sub_ps(a, b); }
TGV_INLINE Lanes multiply(Lanes a, Lanes b) { return _mm512_mul_ps(a, b); }
TGV_INLINE Lanes divide(Lanes a, Lanes b) { return _mm512_div_ps(a, b); }
TGV_INLINE Lanes fma(Lanes a, Lanes b, Lanes c) { return _mm512_fmadd_ps(a, b, c); }
TGV_INLINE Lanes larger(Lanes a, Lanes b) { return _mm512_max_ps(a, b); }
TGV_INLINE Lanes smaller(Lanes a, Lanes b) { return _mm512_min_ps(a, b); }
TGV_INLINE Lanes zero_below(Lanes x, float limit, Lanes value) {
  const __mmask16 kept = _mm512_cmp_ps_mask(x, splat(limit), _CMP_NLT_UQ);
  return _mm512_maskz_mov_ps(kept, value);
}
TGV_INLINE Lanes keep_first(Lanes x, int64_t n, float other) {
  return _mm512_mask_mov_ps(splat(other), first_lanes(n), x);
}
TGV_INLINE Lanes power_of_two(Lanes shifted) {
  const __m512i n =
      _mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(0x4b400000 - 127));
  return _mm512_castsi512_ps(_mm512_slli_epi32(n, 23));
}

TGV_INLINE Lanes from_half(const void* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
TGV_INLINE Lanes from_bfloat16(const void* p) {
  const __m512i codes = _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(codes, 16));
}

TGV_INLINE void to_half(void* p, Lanes x) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
TGV_INLINE void to_bfloat16(void* p, Lanes x) {
  const __m512i bits = _mm512_castps_si512(x), high = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(
      _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __m512i codes = _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), high,
                                             _mm512_set1_epi32(0x40));
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(codes));
}
TGV_INLINE void to_int8(void* p, Lanes x) {
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
}

TGV_INLINE float sum(Lanes x) {
  const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
TGV_INLINE float largest(Lanes x) {
  const __m256 a = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  const __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

// The trees of sixteen vectors together: each level halves the number of vectors, so that all
// lanes of every addition are used.
TGV_INLINE Lanes sums(const Lanes (&x)[16]) {
  Lanes a[8], b[4], c[2];
  for (int i = 0; i < 8; ++i) {  // halves: vector i keeps the lower place, i + 8 the upper
    a[i] = _mm512_add_ps(_mm512_mask_blend_ps(0xff00, x[i], x[i + 8]),
                         _mm512_shuffle_f32x4(x[i], x[i + 8], 0x4e));
  }
  for (int i = 0; i < 4; ++i) {  // quarters: of x[i], x[i + 8], x[i + 4], x[i + 12]
    b[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a[i], a[i + 4], 0x88),
                         _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd));
  }
  for (int i = 0; i < 2; ++i) {
    const __m512d low = _mm512_castps_pd(b[i]), high = _mm512_castps_pd(b[i + 2]);
    c[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(low, high)),
                         _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)));
  }
  const Lanes mixed =
      _mm512_add_ps(_mm512_shuffle_ps(c[0], c[1], 0x88), _mm512_shuffle_ps(c[0], c[1], 0xdd));
  const __m512i place = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
  return _mm512_permutexvar_ps(place, mixed);
}

TGV_INLINE void transpose(Lanes (&x)[16]) {
  Lanes y[16];
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int j = 0; j < 2; ++j) {
      const __m512d low = _mm512_castps_pd(y[i + j]), high = _mm512_castps_pd(y[i + 2 + j]);
      x[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
      x[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    }
  }
  // x[4 g + c]: quarter q holds column 4 q + c of rows 4 g .. 4 g + 3.
  for (int c = 0; c < 4; ++c) {
    const Lanes ab_even = _mm512_shuffle_f32x4(x[c], x[4 + c], 0x88);
    const Lanes ab_odd = _mm512_shuffle_f32x4(x[c], x[4 + c], 0xdd);
    const Lanes cd_even = _mm512_shuffle_f32x4(x[8 + c], x[12 + c], 0x88);
    const Lanes cd_odd = _mm512_shuffle_f32x4(x[8 + c], x[12 + c], 0xdd);
    y[c] = _mm512_shuffle_f32x4(ab_even, cd_even, 0x88);
    y[8 + c] = _mm512_shuffle_f32x4(ab_even, cd_even, 0xdd);
    y[4 + c] = _mm512_shuffle_f32x4(ab_odd, cd_odd, 0x88);
    y[12 + c] = _mm512_shuffle_f32x4(ab_odd, cd_odd, 0xdd);
  }
  for (int i = 0; i < 16; ++i) x[i] = y[i];
}

constexpr int kScoreQueries = 4, kScorePages = 2, kValueQueries = 4;

}  // namespace
}  // namespace tgv::cpu
