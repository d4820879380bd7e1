#include <immintrin.h>

#include "base/int8_peak_isa.h"

namespace tgv::int8_peak_isa {

// Without dot products of bytes: pairs in 16 bits, then in 32. Chains by name: of an array GCC 12
// would keep most in memory.
int32_t avx2(int64_t rounds) {
  const __m256i b = _mm256_set1_epi8(2), ones = _mm256_set1_epi16(1);
  __m256i a = _mm256_set1_epi8(1);
  __m256i s0 = a, s1 = a, s2 = a, s3 = a, s4 = a, s5 = a, s6 = a, s7 = a;
  static_assert(kAvx2Chains == 8);
  const auto dot = [&] {
    asm volatile("" : "+x"(a));  // a product of its own for every chain and round
    return _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones);
  };
  for (int64_t i = 0; i < rounds; ++i) {
    s0 = _mm256_add_epi32(s0, dot());
    s1 = _mm256_add_epi32(s1, dot());
    s2 = _mm256_add_epi32(s2, dot());
    s3 = _mm256_add_epi32(s3, dot());
    s4 = _mm256_add_epi32(s4, dot());
    s5 = _mm256_add_epi32(s5, dot());
    s6 = _mm256_add_epi32(s6, dot());
    s7 = _mm256_add_epi32(s7, dot());
    asm volatile(""
                 : "+x"(s0), "+x"(s1), "+x"(s2), "+x"(s3), "+x"(s4), "+x"(s5), "+x"(s6), "+x"(s7));
  }
  s0 = _mm256_add_epi32(s0, s1);
  s0 = _mm256_add_epi32(s0, s2);
  s0 = _mm256_add_epi32(s0, s3);
  s0 = _mm256_add_epi32(s0, s4);
  s0 = _mm256_add_epi32(s0, s5);
  s0 = _mm256_add_epi32(s0, s6);
  s0 = _mm256_add_epi32(s0, s7);
  int32_t out[sizeof(__m256i) / 4];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), s0);
  return out[0];
}

}  // namespace tgv::int8_peak_isa
