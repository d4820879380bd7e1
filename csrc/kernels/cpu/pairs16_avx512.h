// pairs16_portable.h for AVX-512 F, BW, VL and DQ, with the dot products of VNNI where they are:
// one register.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/lanes16_avx512.h"

namespace tgv::cpu {
namespace {

struct Pairs {
  __m512i bits;
};
struct Counts {
  __m512i bits;
};

TGV_INLINE Pairs load_pairs(const void* p) { return {_mm512_loadu_si512(p)}; }
TGV_INLINE void store_pairs(void* p, Pairs x) { _mm512_storeu_si512(p, x.bits); }
TGV_INLINE Pairs splat_pair(const void* p) {
  int pair;
  __builtin_memcpy(&pair, p, sizeof(pair));
  return {_mm512_set1_epi32(pair)};
}
TGV_INLINE Pairs pairs_of_int8(const uint8_t* p, int64_t n) {
  const __mmask32 first = n == 32 ? ~__mmask32{0} : (__mmask32{1} << n) - 1;
  return {_mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(first, p))};
}
TGV_INLINE Pairs interleaved_int8(const uint8_t* a, const uint8_t* b, int64_t n) {
  const auto first = static_cast<__mmask16>((1u << n) - 1u);
  const __m128i x = _mm_maskz_loadu_epi8(first, a), y = _mm_maskz_loadu_epi8(first, b);
  const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_unpacklo_epi8(x, y)),
                                               _mm_unpackhi_epi8(x, y), 1);
  return {_mm512_cvtepi8_epi16(both)};
}
TGV_INLINE void transpose(Pairs (&x)[16]) {
  Lanes y[16];
  for (int i = 0; i < 16; ++i) y[i] = _mm512_castsi512_ps(x[i].bits);
  transpose(y);
  for (int i = 0; i < 16; ++i) x[i].bits = _mm512_castps_si512(y[i]);
}

TGV_INLINE Counts no_counts() { return {_mm512_setzero_si512()}; }
TGV_INLINE Counts load_counts(const void* p) { return {_mm512_loadu_si512(p)}; }
TGV_INLINE void store_counts(void* p, Counts x) { _mm512_storeu_si512(p, x.bits); }
TGV_INLINE Counts dot(Pairs a, Pairs b, Counts c) {
#ifdef __AVX512VNNI__
  // Not _mm512_dpwssd_epi32: in a loop GCC copies every accumulator of that before and after it.
  __asm__("vpdpwssd %2, %1, %0" : "+v"(c.bits) : "v"(a.bits), "vm"(b.bits));
  return c;
#else
  return {_mm512_add_epi32(c.bits, _mm512_madd_epi16(a.bits, b.bits))};
#endif
}
// As sums of floats: each level halves the number of vectors.
TGV_INLINE Counts sums(const Counts (&x)[16]) {
  __m512i a[8], b[4], c[2];
  for (int i = 0; i < 8; ++i) {
    a[i] = _mm512_add_epi32(_mm512_mask_blend_epi32(0xff00, x[i].bits, x[i + 8].bits),
                            _mm512_shuffle_i32x4(x[i].bits, x[i + 8].bits, 0x4e));
  }
  for (int i = 0; i < 4; ++i) {
    b[i] = _mm512_add_epi32(_mm512_shuffle_i32x4(a[i], a[i + 4], 0x88),
                            _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd));
  }
  for (int i = 0; i < 2; ++i) {
    c[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(b[i], b[i + 2]),
                            _mm512_unpackhi_epi64(b[i], b[i + 2]));
  }
  const __m512 low = _mm512_castsi512_ps(c[0]), high = _mm512_castsi512_ps(c[1]);
  const __m512i mixed = _mm512_add_epi32(_mm512_castps_si512(_mm512_shuffle_ps(low, high, 0x88)),
                                         _mm512_castps_si512(_mm512_shuffle_ps(low, high, 0xdd)));
  const __m512i place = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
  return {_mm512_permutexvar_epi32(place, mixed)};
}
TGV_INLINE Lanes to_float(Counts x) { return _mm512_cvtepi32_ps(x.bits); }
TGV_INLINE void to_int16(void* p, Lanes x) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x)));
}
TGV_INLINE Lanes magnitude(Lanes x) { return _mm512_abs_ps(x); }

constexpr int kPairScoreQueries = 4, kPairScorePages = 4, kPairValueQueries = 4;

}  // namespace
}  // namespace tgv::cpu
