// 512-bit float vectors: a vector is the 16 rows of a block. Also what a CPU with VNNI runs.
#include <immintrin.h>

#include "kernels/cpu/linear_finish.h"

namespace tgv::cpu {
namespace {

constexpr int kLanes = 16, kFloatTokens = 8, kFloatBlocks = 2;
constexpr LinearFinish* kFinish = linear_finish_avx512;
using Floats = __m512;

inline Floats splat(float x) { return _mm512_set1_ps(x); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats load(const float* p) { return _mm512_load_ps(p); }
inline void store(float* p, Floats x) { _mm512_store_ps(p, x); }
inline Floats load_floats(const uint8_t* p) { return _mm512_load_ps(p); }
// kLanes pairs of bf16: the low and the high halves of 32-bit lanes.
TGV_INLINE void load_pairs(const uint8_t* p, Floats (&out)[2]) {
  const __m512i both = _mm512_load_si512(p);
  out[0] = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
  out[1] = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(-65536)));
}

}  // namespace
}  // namespace tgv::cpu

#include "kernels/cpu/linear_float_body.h"

namespace tgv::cpu {

void linear_bf16_avx512(const Linear& linear, const LinearInput& input, const LinearOutput& output,
                        int64_t begin, int64_t end) {
  multiply_bf16(linear, input, output, begin, end);
}

void linear_f32_avx512(const Linear& linear, const LinearInput& input, const LinearOutput& output,
                       int64_t begin, int64_t end) {
  multiply_f32(linear, input, output, begin, end);
}

}  // namespace tgv::cpu
