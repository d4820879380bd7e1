// 512-bit VNNI: a vector is the 16 rows of a block; two blocks share every broadcast of
// activations.
#include <immintrin.h>

#include "kernels/cpu/int4_matmul_isa.h"

namespace tgv::cpu {
namespace {

constexpr int kLanes = 16, kBlocks = 2, kVectors = 2;
using Ints = __m512i;
using Floats = __m512;
struct Levels {
  __m512i chunk[8];  // chunk c: k = 4 c .. 4 c + 3 of each row
};

inline Levels unpack(const uint8_t* tile) {
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

inline Ints dot(const Levels& levels, const int8_t* x, Ints start) {
  for (int c = 0; c < 8; ++c) {
    start = _mm512_dpbusd_epi32(start, levels.chunk[c], four_of(x, c));
  }
  return start;
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
inline Floats to_float(Ints x) { return _mm512_cvtepi32_ps(x); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats load(const float* p) { return _mm512_load_ps(p); }
inline void store(float* p, Floats x) { _mm512_store_ps(p, x); }

}  // namespace
}  // namespace tgv::cpu

#include "kernels/cpu/int4_matmul_body.h"

namespace tgv::cpu {

void int4_round_avx512vnni(const Int4MatmulParams& params, const Int4Pass& pass,
                           int64_t token_block, int64_t tile_begin, int64_t tile_end) {
  round_tokens(params, pass, token_block, tile_begin, tile_end);
}

void int4_rows_avx512vnni(const Int4MatmulParams& params, const Int4Pass& pass, int64_t begin,
                          int64_t end) {
  multiply_rows(params, pass, begin, end);
}

}  // namespace tgv::cpu
