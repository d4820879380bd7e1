// Between sampling.cc and its bodies, one per ISA (sampling_body.h). n >= 1 everywhere.
#pragma once

#include <cstdint>

namespace tgv::cpu {

constexpr int64_t kChunk = 1024;  // elements of one partial sum, and of kChunkMaxima maxima
constexpr int64_t kChunkMaxima = 16;

// maxima [kChunkMaxima * ceil(n / kChunk)]: element i of x counts for maximum i mod 16 of its
// chunk; NaN is passed over. Returns the largest, -inf if there is none.
using LaneMaxima = float(float* maxima, const float* x, int64_t n);
// sum of exp(x - shift) for x <= shift; NaN if x holds NaN.
using SumExp = double(const float* x, int64_t n, float shift);
// e = exp((x - shift) * slope), and the sum of token_weight(e). e may be x; no NaN.
using Weigh = uint64_t(float* e, const float* x, int64_t n, float shift, float slope);
// y = (x - first) - second; y may be x.
using SubtractBoth = void(float* y, const float* x, int64_t n, float first, float second);
// Values and ids, in order, of all x >= least; returns how many. Both arrays hold n; values may be
// x.
using Collect = int64_t(float* values, int32_t* ids, const float* x, int64_t n, float least);

struct SamplingBody {
  LaneMaxima* lane_maxima;
  SumExp* sum_exp;
  Weigh* weigh;
  SubtractBoth* subtract_both;
  Collect* collect;
};

SamplingBody sampling_body_portable();
SamplingBody sampling_body_avx2();
SamplingBody sampling_body_avx512();

namespace {

// e in 0..1 as an integer, so that sums are exact: at most 2^40 each, 2^62 for 2^22 of them.
inline __attribute__((always_inline)) uint64_t token_weight(float e) {
  return static_cast<uint64_t>(static_cast<int64_t>(e * 0x1p40f));
}

}  // namespace

}  // namespace tgv::cpu
