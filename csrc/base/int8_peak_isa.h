// One pass of int8_peak on one instruction set. Chains are as many as hide the latency of an
// instruction on every CPU so far, and no more than there are registers for.
#pragma once

#include <cstdint>

namespace tgv::int8_peak_isa {

// Each returns a sum of its results, so that nothing is computed in vain.
int32_t avx2(int64_t rounds);
int32_t avxvnni(int64_t rounds);
int32_t avx512vnni(int64_t rounds);

// Operations of one round.
constexpr int64_t kAvx2Chains = 8, kAvx2Ops = kAvx2Chains * 32 * 2;
constexpr int64_t kAvxVnniChains = 12, kAvxVnniOps = kAvxVnniChains * 32 * 2;
constexpr int64_t kAvx512VnniChains = 12, kAvx512VnniOps = kAvx512VnniChains * 64 * 2;

}  // namespace tgv::int8_peak_isa
