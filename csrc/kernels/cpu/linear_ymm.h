// 256-bit vectors for linear_rounded_body.h and linear_float_body.h: eight rows of a block at a
// time. With AVX-VNNI a dot product is one instruction per four k; without, pairs are added in 16
// bits: 16 products of at most 15 * 127 come to 30,480, so a block of 32 k needs one widening at
// its end.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/linear_finish.h"

namespace tgv::cpu {
namespace {

constexpr int kLanes = 8, kVectors = 1, kBlockTile = 1, kAloneTokens = 0;
constexpr int kFloatTokens = 4, kFloatBlocks = 1;
#if defined(__AVXVNNI__)
constexpr int kTokenTile = 4;
constexpr bool kUnsignedBytes = true;
#else
constexpr int kTokenTile = 1;  // sixteen registers: four tokens spill
constexpr bool kUnsignedBytes = false;
#endif
constexpr LinearFinish* kFinish = linear_finish_avx2;
using Ints = __m256i;
using Floats = __m256;
struct Levels {
  __m256i chunk[8];  // chunk c: k = 4 c .. 4 c + 3 of each row
};

TGV_INLINE Levels unpack4(const uint8_t* tile) {
  const __m256i low = _mm256_set1_epi8(15);
  Levels out;
  for (int i = 0; i < 4; ++i) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile + 64 * i));
    out.chunk[i] = _mm256_and_si256(bytes, low);
    out.chunk[i + 4] = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), low);
  }
  return out;
}

inline __m256i four_of(const int8_t* x, int c) {
  int32_t four;
  __builtin_memcpy(&four, x + 4 * c, 4);
  return _mm256_set1_epi32(four);
}

template <int kCount, int kTokens>
TGV_INLINE void dots4(const Levels (&levels)[kCount], const RoundedTile* x,
                      Ints (&sums)[kTokens][kCount]) {
#if defined(__AVXVNNI__)
#pragma GCC unroll 8
  for (int c = 0; c < 8; ++c) {
    for (int m = 0; m < kTokens; ++m) {
      const __m256i four = four_of(x[m].q, c);
      for (int v = 0; v < kCount; ++v) {
        sums[m][v] = _mm256_dpbusd_avx_epi32(sums[m][v], levels[v].chunk[c], four);
      }
    }
  }
#else
  Ints pairs[kTokens][kCount];
#pragma GCC unroll 8
  for (int c = 0; c < 8; ++c) {
    for (int m = 0; m < kTokens; ++m) {
      const __m256i four = four_of(x[m].q, c);
      for (int v = 0; v < kCount; ++v) {
        const __m256i two = _mm256_maddubs_epi16(levels[v].chunk[c], four);
        pairs[m][v] = c == 0 ? two : _mm256_add_epi16(pairs[m][v], two);
      }
    }
  }
  for (int m = 0; m < kTokens; ++m) {
    for (int v = 0; v < kCount; ++v) {
      const __m256i sum = _mm256_madd_epi16(pairs[m][v], _mm256_set1_epi16(1));
      sums[m][v] = _mm256_add_epi32(sums[m][v], sum);
    }
  }
#endif
}

TGV_INLINE Levels unpack8(const uint8_t* tile) {
  Levels out;
  for (int c = 0; c < 8; ++c) {
    out.chunk[c] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile + 64 * c));
    if (!kUnsignedBytes) out.chunk[c] = _mm256_xor_si256(out.chunk[c], _mm256_set1_epi8(-128));
  }
  return out;
}

// Without AVX-VNNI the sign goes from the weights to the activations, because one operand has to be
// unsigned; two products of at most 128 * 127 come to 32,512.
template <int kCount, int kTokens>
TGV_INLINE void dots8(const Levels (&levels)[kCount], const RoundedTile* x,
                      Ints (&sums)[kTokens][kCount]) {
#if defined(__AVXVNNI__)
  dots4<kCount, kTokens>(levels, x, sums);
#else
#pragma GCC unroll 8
  for (int c = 0; c < 8; ++c) {
    for (int v = 0; v < kCount; ++v) {
      const __m256i level = levels[v].chunk[c], magnitude = _mm256_abs_epi8(level);
      for (int m = 0; m < kTokens; ++m) {
        const __m256i four = _mm256_sign_epi8(four_of(x[m].q, c), level);
        const __m256i two = _mm256_maddubs_epi16(magnitude, four);
        sums[m][v] = _mm256_add_epi32(sums[m][v], _mm256_madd_epi16(two, _mm256_set1_epi16(1)));
      }
    }
  }
#endif
}

inline Floats scales(const uint8_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Ints zeros(const uint8_t* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
inline Ints splat(int32_t x) { return _mm256_set1_epi32(x); }
inline Floats splat(float x) { return _mm256_set1_ps(x); }
inline Ints multiply(Ints a, Ints b) { return _mm256_mullo_epi32(a, b); }
inline Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
inline Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
inline Floats subtract(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
inline Floats as_floats(Ints x) { return _mm256_castsi256_ps(x); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats load(const float* p) { return _mm256_load_ps(p); }
inline void store(float* p, Floats x) { _mm256_store_ps(p, x); }
inline Floats load_floats(const uint8_t* p) {
  return _mm256_load_ps(reinterpret_cast<const float*>(p));
}
// kLanes pairs of bf16: the low and the high halves of 32-bit lanes.
TGV_INLINE void load_pairs(const uint8_t* p, Floats (&out)[2]) {
  const __m256i both = _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
  out[0] = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
  out[1] = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(-65536)));
}

}  // namespace
}  // namespace tgv::cpu
