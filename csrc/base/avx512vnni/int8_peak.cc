#include <immintrin.h>

#include "base/int8_peak_isa.h"

namespace tgv::int8_peak_isa {

// Chains by name: of an array GCC 12 would keep most in memory.
int32_t avx512vnni(int64_t rounds) {
  const __m512i a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(2);
  __m512i s0 = a, s1 = a, s2 = a, s3 = a, s4 = a, s5 = a, s6 = a, s7 = a, s8 = a, s9 = a, s10 = a,
          s11 = a;
  static_assert(kAvx512VnniChains == 12);
  for (int64_t i = 0; i < rounds; ++i) {
    s0 = _mm512_dpbusd_epi32(s0, a, b);
    s1 = _mm512_dpbusd_epi32(s1, a, b);
    s2 = _mm512_dpbusd_epi32(s2, a, b);
    s3 = _mm512_dpbusd_epi32(s3, a, b);
    s4 = _mm512_dpbusd_epi32(s4, a, b);
    s5 = _mm512_dpbusd_epi32(s5, a, b);
    s6 = _mm512_dpbusd_epi32(s6, a, b);
    s7 = _mm512_dpbusd_epi32(s7, a, b);
    s8 = _mm512_dpbusd_epi32(s8, a, b);
    s9 = _mm512_dpbusd_epi32(s9, a, b);
    s10 = _mm512_dpbusd_epi32(s10, a, b);
    s11 = _mm512_dpbusd_epi32(s11, a, b);
    // As it stands: no round is merged with another.
    asm volatile(""
                 : "+v"(s0), "+v"(s1), "+v"(s2), "+v"(s3), "+v"(s4), "+v"(s5), "+v"(s6), "+v"(s7),
                   "+v"(s8), "+v"(s9), "+v"(s10), "+v"(s11));
  }
  s0 = _mm512_add_epi32(s0, s1);
  s0 = _mm512_add_epi32(s0, s2);
  s0 = _mm512_add_epi32(s0, s3);
  s0 = _mm512_add_epi32(s0, s4);
  s0 = _mm512_add_epi32(s0, s5);
  s0 = _mm512_add_epi32(s0, s6);
  s0 = _mm512_add_epi32(s0, s7);
  s0 = _mm512_add_epi32(s0, s8);
  s0 = _mm512_add_epi32(s0, s9);
  s0 = _mm512_add_epi32(s0, s10);
  s0 = _mm512_add_epi32(s0, s11);
  int32_t out[sizeof(__m512i) / 4];
  _mm512_storeu_si512(out, s0);
  return out[0];
}

}  // namespace tgv::int8_peak_isa
