// What this CPU can run and the operating system lets it run. Asked once at start; dispatch reads
// it.
#pragma once

#include <string>

namespace tgv {

struct CpuFeatures {
  bool avx2 = false;  // AVX2, FMA and F16C together: no CPU we meet has one without the others
  bool avx_vnni = false;
  bool avx512f = false;
  bool avx512bw = false;
  bool avx512vl = false;
  bool avx512dq = false;
  bool avx512_vnni = false;
  bool avx512_bf16 = false;
  bool amx_tile = false;
  bool amx_int8 = false;
  bool amx_bf16 = false;
  std::string brand;  // "AMD EPYC ..."; empty when the CPU does not say
};

// A feature is true only if CPUID reports it *and* XGETBV shows that the OS saves its registers.
// AMX further needs a permission the process asks Linux for before its first tile instruction; this
// function does not ask.
CpuFeatures detect_cpu_features();

// The same, detected once and kept.
const CpuFeatures& cpu_features();

}  // namespace tgv
