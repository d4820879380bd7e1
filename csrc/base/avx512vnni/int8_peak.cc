#include <immintrin.h>

#include "base/int8_peak_isa.h"

namespace tgv::int8_peak_isa {

int32_t avx512vnni(int64_t rounds) {
  const __m512i a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(2);
  __m512i sums[kAvx512VnniChains] = {};
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (auto& sum : sums) {
      sum = _mm512_dpbusd_epi32(sum, a, b);
      asm volatile("" : "+v"(sum));  // as it stands: no round is merged with another
    }
  }
  for (int64_t i = 1; i < kAvx512VnniChains; ++i) sums[0] = _mm512_add_epi32(sums[0], sums[i]);
  int32_t out[sizeof(__m512i) / 4];
  _mm512_storeu_si512(reinterpret_cast<__m512i*>(out), sums[0]);
  return out[0];
}

}  // namespace tgv::int8_peak_isa
