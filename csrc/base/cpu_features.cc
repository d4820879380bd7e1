#include "base/cpu_features.h"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace tgv {

#if defined(__x86_64__)

namespace {

struct Registers {
  uint32_t a = 0, b = 0, c = 0, d = 0;
};

// All zero when the CPU does not have the leaf.
Registers cpuid(uint32_t leaf, uint32_t subleaf = 0) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d);
  return r;
}

// XCR0: which register states the operating system saves at a context switch.
uint64_t saved_states() {
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

bool bit(uint32_t word, int index) { return (word >> index) & 1; }

std::string brand_string() {
  if (__get_cpuid_max(0x80000000u, nullptr) < 0x80000004u) return "";
  char text[49] = {};
  for (uint32_t i = 0; i < 3; ++i) {
    const Registers r = cpuid(0x80000002u + i);
    std::memcpy(text + 16 * i, &r, 16);
  }
  std::string brand = text;
  const size_t first = brand.find_first_not_of(' ');
  const size_t last = brand.find_last_not_of(' ');
  return first == std::string::npos ? "" : brand.substr(first, last - first + 1);
}

}  // namespace

CpuFeatures detect_cpu_features() {
  CpuFeatures f;
  f.brand = brand_string();
  const Registers one = cpuid(1);
  if (!bit(one.c, 27)) return f;  // OSXSAVE: without it XGETBV faults and no wide state is saved
  const uint64_t states = saved_states();
  const bool os_avx = (states & 0x6) == 0x6;                 // XMM, YMM
  const bool os_avx512 = os_avx && (states & 0xe0) == 0xe0;  // opmask, upper ZMM, ZMM16-31
  const bool os_amx = (states & 0x60000) == 0x60000;         // TILECFG, TILEDATA
  const Registers seven = cpuid(7, 0), seven_one = cpuid(7, 1);
  f.avx2 = os_avx && bit(seven.b, 5) && bit(one.c, 12) && bit(one.c, 29);
  f.avx_vnni = f.avx2 && bit(seven_one.a, 4);
  f.avx512f = os_avx512 && bit(seven.b, 16);
  f.avx512dq = f.avx512f && bit(seven.b, 17);
  f.avx512bw = f.avx512f && bit(seven.b, 30);
  f.avx512vl = f.avx512f && bit(seven.b, 31);
  f.avx512_vnni = f.avx512f && bit(seven.c, 11);
  f.avx512_bf16 = f.avx512f && bit(seven_one.a, 5);
  f.amx_tile = os_amx && bit(seven.d, 24);
  f.amx_int8 = f.amx_tile && bit(seven.d, 25);
  f.amx_bf16 = f.amx_tile && bit(seven.d, 22);
  return f;
}

#else

CpuFeatures detect_cpu_features() { return {}; }  // other architectures run the portable paths

#endif

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect_cpu_features();
  return features;
}

}  // namespace tgv
