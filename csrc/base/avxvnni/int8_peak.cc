#include <immintrin.h>

#include "base/int8_peak_isa.h"

namespace tgv::int8_peak_isa {

int32_t avxvnni(int64_t rounds) {
  const __m256i a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(2);
  __m256i sums[kAvxVnniChains] = {};
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (auto& sum : sums) {
      sum = _mm256_dpbusd_avx_epi32(sum, a, b);
      asm volatile("" : "+v"(sum));  // as it stands: no round is merged with another
    }
  }
  for (int64_t i = 1; i < kAvxVnniChains; ++i) sums[0] = _mm256_add_epi32(sums[0], sums[i]);
  int32_t out[sizeof(__m256i) / 4];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), sums[0]);
  return out[0];
}

}  // namespace tgv::int8_peak_isa
