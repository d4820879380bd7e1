#include "base/isa.h"

#include "base/cpu_features.h"
#include "base/errors.h"

namespace tgv {

namespace {

constexpr Isa kAll[] = {Isa::kPortable, Isa::kAvx2, Isa::kAvxVnni, Isa::kAvx512, Isa::kAvx512Vnni};

std::string names_of(const std::vector<Isa>& isas) {
  std::string out;
  for (const Isa isa : isas) out += concat(out.empty() ? "" : ", ", isa_name(isa));
  return out;
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return "portable";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvxVnni:
      return "avxvnni";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Vnni:
      return "avx512vnni";
  }
  return "unknown";
}

bool has_isa(Isa isa) {
  const CpuFeatures& f = cpu_features();
  const bool avx512 = f.avx2 && f.avx512f && f.avx512bw && f.avx512vl && f.avx512dq;
  switch (isa) {
    case Isa::kPortable:
      return true;
    case Isa::kAvx2:
      return f.avx2;
    case Isa::kAvxVnni:
      return f.avx2 && f.avx_vnni;
    case Isa::kAvx512:
      return avx512;
    case Isa::kAvx512Vnni:
      return avx512 && f.avx512_vnni;
  }
  return false;
}

std::vector<Isa> available_isas() {
  std::vector<Isa> out;
  for (const Isa isa : kAll) {
    if (has_isa(isa)) out.push_back(isa);
  }
  return out;
}

Isa best_isa() {
  Isa best = Isa::kPortable;
  for (const Isa isa : kAll) best = has_isa(isa) ? isa : best;
  return best;
}

Isa choose_isa(std::string_view asked) {
  if (asked.empty()) return best_isa();
  for (const Isa isa : kAll) {
    if (asked != isa_name(isa)) continue;
    if (has_isa(isa)) return isa;
    throw Unsupported(concat("isa is '", asked, "', which this CPU does not have; it has ",
                             names_of(available_isas())));
  }
  throw InvalidArgument(concat("isa is '", asked.substr(0, 40), "', expected one of ",
                               names_of({std::begin(kAll), std::end(kAll)})));
}

}  // namespace tgv
