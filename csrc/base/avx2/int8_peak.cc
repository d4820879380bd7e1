#include <immintrin.h>

#include "base/int8_peak_isa.h"

namespace tgv::int8_peak_isa {

int32_t avx2(int64_t rounds) {
  __m256i a = _mm256_set1_epi8(1);
  const __m256i b = _mm256_set1_epi8(2), ones = _mm256_set1_epi16(1);
  __m256i sums[kAvx2Chains] = {};
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 8
    for (auto& sum : sums) {
      asm volatile("" : "+x"(a));  // a product of its own for every chain and round
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
      asm volatile("" : "+x"(sum));
    }
  }
  for (int64_t i = 1; i < kAvx2Chains; ++i) sums[0] = _mm256_add_epi32(sums[0], sums[i]);
  int32_t out[sizeof(__m256i) / 4];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), sums[0]);
  return out[0];
}

}  // namespace tgv::int8_peak_isa
