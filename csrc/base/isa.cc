#include "base/isa.h"

#include "base/cpu_features.h"
#include "base/errors.h"

namespace tgv {

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return "portable";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "unknown";
}

Isa best_isa() {
  const CpuFeatures& f = cpu_features();
  if (f.avx2 && f.avx512f && f.avx512bw && f.avx512vl && f.avx512dq) return Isa::kAvx512;
  return f.avx2 ? Isa::kAvx2 : Isa::kPortable;
}

Isa choose_isa(std::string_view asked) {
  if (asked.empty()) return best_isa();
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    if (asked != isa_name(isa)) continue;
    if (isa <= best_isa()) return isa;
    throw Unsupported(concat("isa is '", asked, "', which this CPU does not have; its widest is '",
                             isa_name(best_isa()), "'"));
  }
  throw InvalidArgument(
      concat("isa is '", asked.substr(0, 40), "', expected portable, avx2 or avx512"));
}

}  // namespace tgv
