// 512-bit VNNI: a vector is the 16 rows of a block; two blocks share every broadcast of
// activations.
#include <immintrin.h>

#include "kernels/cpu/linear_finish.h"

namespace tgv::cpu {
namespace {

constexpr int kLanes = 16, kVectors = 2, kBlockTile = 2, kTokenTile = 6, kAloneTokens = 4;
constexpr bool kUnsignedBytes = true;
constexpr LinearFinish* kFinish = linear_finish_avx512;
using Ints = __m512i;
using Floats = __m512;
struct Levels {
  __m512i chunk[8];  // chunk c: k = 4 c .. 4 c + 3 of each row
};

TGV_INLINE Levels unpack4(const uint8_t* tile) {
  const __m512i low = _mm512_set1_epi8(15);
  Levels out;
  for (int i = 0; i < 4; ++i) {
    const __m512i bytes = _mm512_loadu_si512(tile + 64 * i);
    out.chunk[i] = _mm512_and_si512(bytes, low);
    out.chunk[i + 4] = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), low);
  }
  return out;
}

inline Ints four_of(const int8_t* x, int c) {
  int32_t four;
  __builtin_memcpy(&four, x + 4 * c, 4);
  return _mm512_set1_epi32(four);
}

template <int kCount, int kTokens>
TGV_INLINE void dots4(const Levels (&levels)[kCount], const RoundedTile* x,
                      Ints (&sums)[kTokens][kCount]) {
#pragma GCC unroll 8
  for (int c = 0; c < 8; ++c) {
    for (int m = 0; m < kTokens; ++m) {
      const Ints four = four_of(x[m].q, c);
      for (int v = 0; v < kCount; ++v) {
        sums[m][v] = _mm512_dpbusd_epi32(sums[m][v], levels[v].chunk[c], four);
      }
    }
  }
}

TGV_INLINE Levels unpack8(const uint8_t* tile) {
  Levels out;
  for (int c = 0; c < 8; ++c) out.chunk[c] = _mm512_loadu_si512(tile + 64 * c);
  return out;
}
template <int kCount, int kTokens>
TGV_INLINE void dots8(const Levels (&levels)[kCount], const RoundedTile* x,
                      Ints (&sums)[kTokens][kCount]) {
  dots4<kCount, kTokens>(levels, x, sums);
}

inline Floats scales(const uint8_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Ints zeros(const uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Ints splat(int32_t x) { return _mm512_set1_epi32(x); }
inline Floats splat(float x) { return _mm512_set1_ps(x); }
inline Ints multiply(Ints a, Ints b) { return _mm512_mullo_epi32(a, b); }
inline Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
inline Floats as_floats(Ints x) { return _mm512_castsi512_ps(x); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats load(const float* p) { return _mm512_load_ps(p); }
inline void store(float* p, Floats x) { _mm512_store_ps(p, x); }

}  // namespace
}  // namespace tgv::cpu

#include "kernels/cpu/linear_round_body.h"
#include "kernels/cpu/linear_rounded_body.h"

namespace tgv::cpu {
namespace {

// round_tile with the two sums over 32 lanes that compilers make much of.
TGV_INLINE void round_tile_512(RoundedTile& out, const float* x) {
  const __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16);
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  const int32_t top = _mm512_reduce_max_epi32(
      _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(low), magnitude),
                       _mm512_and_si512(_mm512_castps_si512(high), magnitude)));
  const Step step = step_of(top);
  if (step.empty) return round_tile(out, x);
  const Floats inverse = _mm512_set1_ps(step.inverse);
  const Ints first = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
  const Ints second = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out.q), _mm512_cvtepi32_epi8(first));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out.q + 16), _mm512_cvtepi32_epi8(second));
  set_base(out, step, _mm512_reduce_add_epi32(_mm512_add_epi32(first, second)));
}

}  // namespace

void linear_round_avx512vnni(const LinearInput& input, int64_t token_block, int64_t tile_begin,
                             int64_t tile_end) {
  round_tokens<round_tile_512>(input, token_block, tile_begin, tile_end);
}

void linear_int4_avx512vnni(const Linear& linear, const LinearInput& input,
                            const LinearOutput& output, int64_t begin, int64_t end) {
  multiply_int4<round_tile_512>(linear, input, output, begin, end);
}

void linear_int8_avx512vnni(const Linear& linear, const LinearInput& input,
                            const LinearOutput& output, int64_t begin, int64_t end) {
  multiply_int8<round_tile_512>(linear, input, output, begin, end);
}

}  // namespace tgv::cpu
