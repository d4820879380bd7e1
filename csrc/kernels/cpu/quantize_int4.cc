#include "kernels/cpu/quantize_int4.h"

#include <mutex>

#include "base/errors.h"
#include "kernels/cpu/quantize_int4_body.h"
#include "kernels/cpu/quantize_int4_isa.h"

namespace tgv::cpu {

namespace {

constexpr int64_t kGrain = 1024;  // groups claimed at once: 32,768 weights of G = 32; whole vectors

void check(const QuantizeInt4Params& p) {
  const bool group_ok = p.group_size == 32 || p.group_size == 64 || p.group_size == 128;
  if (p.rows < 1 || p.columns < 1 || !group_ok) {
    throw InvalidArgument(concat("quantize_int4 of [N=", p.rows, ",K=", p.columns,
                                 "] in groups of ", p.group_size,
                                 ", expected N, K >= 1 and groups of 32, 64 or 128"));
  }
  if (!p.weight || !p.qweight || !p.scales || !p.error || !p.norm || !p.worst ||
      (p.zeros == nullptr) != p.symmetric) {
    throw InvalidArgument(
        "quantize_int4 has a null pointer, expected all but zeros (null if and only if symmetric)");
  }
}

QuantizeInt4Groups* groups_of(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512 || isa == Isa::kAvx512Vnni) return quantize_int4_avx512;
  if (isa == Isa::kAvx2 || isa == Isa::kAvxVnni) return quantize_int4_avx2;
#endif
  (void)isa;
  return quantize_int4_portable;
}

void keep_first(int64_t& place, int64_t other) {
  if (other >= 0 && (place < 0 || other < place)) place = other;
}

}  // namespace

void quantize_int4_portable(const QuantizeInt4Params& params, int64_t begin, int64_t end,
                            QuantizeInt4Verdict& verdict) {
  quantize_groups(params, begin, end, verdict);
}

QuantizeInt4Verdict quantize_int4(const QuantizeInt4Params& params, ThreadPool& pool, Isa isa) {
  check(params);
  QuantizeInt4Groups* const quantize = groups_of(isa);
  QuantizeInt4Verdict verdict;
  std::mutex mutex;
  pool.parallel_for(params.rows * params.groups(), kGrain, [&](int64_t begin, int64_t end) {
    QuantizeInt4Verdict found;
    quantize(params, begin, end, found);
    std::lock_guard lock(mutex);
    keep_first(verdict.not_finite, found.not_finite);
    keep_first(verdict.overflow, found.overflow);
  });
  return verdict;
}

}  // namespace tgv::cpu
