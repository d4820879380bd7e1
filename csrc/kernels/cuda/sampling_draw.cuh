// The draw of sampling.cuh: temperature, top_k, top_p and min_p over a row, and one id of what is
// left.
#pragma once

#include "kernels/cuda/sampling.h"
#include "kernels/cuda/sampling_block.cuh"

namespace tgv::cuda {

// What top_p asks the kept ones to weigh, of all.
__device__ __forceinline__ uint64_t nucleus_of(float top_p, uint64_t total) {
  const double wanted = static_cast<double>(top_p) * static_cast<double>(total);
  const uint64_t floor = static_cast<uint64_t>(wanted);
  return floor > 0 ? floor : 1;
}

// The exponential of an id, and 0 weight for those that filters leave out.
struct Weights {
  float peak, slope;
  uint32_t least_logit, least;  // keys

  __device__ __forceinline__ float exponential(float logit) const {
    return exp_of_negative(exact_multiply(exact_add(logit, -peak), slope));
  }
  __device__ __forceinline__ uint64_t of(float logit) const {
    if (key_of(logit) < least_logit) return 0;
    const float e = exponential(logit);
    return key_of(e) >= least ? token_weight(e) : 0;
  }
};

// The id at which the running sum of weights passes total r / 2^64. The sums of the warps say which
// warp's span holds it, and that warp walks it.
__device__ __forceinline__ void find_id(const Span& span, const float* row, const Weights& weights,
                                        const uint64_t* of_warps, uint64_t total, uint64_t r,
                                        int32_t* found) {
  uint64_t target = multiply_high(total, r);
  const int warp = static_cast<int>(threadIdx.x >> 5), lane = static_cast<int>(threadIdx.x & 31);
  for (int w = 0; w < warp; ++w) {
    if (target < of_warps[w]) return;  // in a warp before
    target -= of_warps[w];
  }
  if (target >= of_warps[warp]) return;
  for (int first = span.begin; first < span.end; first += 32) {
    const int id = first + lane;
    uint64_t sum = id < span.end ? weights.of(row[id]) : 0;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {  // of the lanes up to this one
      const uint64_t below = __shfl_sync(0xffffffffu, sum, lane - d);
      if (lane >= d) sum += below;
    }
    const unsigned past = __ballot_sync(0xffffffffu, sum > target);
    if (past) {
      if (lane == 0) *found = first + lowest_bit(past);
      return;
    }
    target -= __shfl_sync(0xffffffffu, sum, 31);
  }
}

// Of one sequence. All threads draw together.
struct Drawing {
  const SamplingSettings& s;
  const int vocab;
  const Span& span;
  BlockReduction& block;
  const List& list;

  // The n-th largest logit's key, n in 1..V. `own`: this thread's largest key.
  __device__ __forceinline__ uint32_t nth_key(const float* row, uint32_t own, int n) const {
    const auto one = [](float) { return uint64_t{1}; };
    uint32_t bound = 0;
    if (n <= kSamplingThreads) {
      bound = largest_key(block, static_cast<uint64_t>(n),
                          [&](uint32_t key) { return uint64_t{own >= key}; });
    }
    list.gather(span, row, [&](float logit) { return key_of(logit) >= bound; });
    const bool listed = list.complete();
    return largest_key(block, static_cast<uint64_t>(n), [&](uint32_t key) {
      if (listed) return list.reaching(key, one);
      uint64_t sum = 0;
      span.each(row, [&](int, float logit) { sum += key_of(logit) >= key; });
      return sum;
    });
  }

  __device__ __forceinline__ uint64_t weigh(const float* row, const Weights& weights) const {
    uint64_t sum = 0;
    span.each(row, [&](int, float logit) { sum += weights.of(logit); });
    return block.sum(sum);
  }

  // The key of the least exponential that top_p keeps of all that weigh `total`.
  __device__ __forceinline__ uint32_t nucleus_key(const float* row, const Weights& weights,
                                                  uint64_t total) const {
    const uint64_t wanted = nucleus_of(s.top_p, total);
    // What weighs no more than (W - wanted) / V cannot be in the nucleus: V of it would be too
    // little to be missed. A little less than that, for the rounding of the quotient.
    const uint64_t each = (total - wanted) / static_cast<uint64_t>(vocab);
    const double light = static_cast<double>(each) * 0x1p-40;
    const float least = static_cast<float>(light * (1 - 0x1p-20));
    list.gather(span, row, [&](float& value) {
      if (key_of(value) < weights.least_logit) return false;
      value = weights.exponential(value);
      return value >= least;
    });
    const bool listed = list.complete();
    return largest_key(block, wanted, [&](uint32_t key) {
      if (listed) return list.reaching(key, token_weight);
      Weights some = weights;
      some.least = key;
      uint64_t reach = 0;
      span.each(row, [&](int, float logit) { reach += some.of(logit); });
      return reach;
    });
  }

  // The id. own: this thread's best of the row; position: the random counter; found: a shared word.
  __device__ __forceinline__ int id(const float* row, uint64_t own, int64_t position,
                                    int32_t* found) const {
    const uint64_t best = block.largest(own);
    // Below 2^-126 the inverse would be infinite and 0 times it NaN.
    const float slope =
        s.temperature < 0x1p-126f ? kFloatLargest : exact_divide(1.0f, s.temperature);
    Weights weights = {value_of(key_part(best)), slope, 0, 0};
    if (s.top_k > 0 && s.top_k < vocab) weights.least_logit = nth_key(row, key_part(own), s.top_k);
    uint64_t total = weigh(row, weights);
    if (s.top_p < 1.0f) weights.least = nucleus_key(row, weights, total);
    const uint32_t probable = key_of(s.min_p);
    if (probable > weights.least) weights.least = probable;
    total = weigh(row, weights);
    const uint64_t r = random_bits(s.seed, position, s.sample);
    find_id(span, row, weights, block.of_warps(), total, r, found);
    __syncthreads();
    return *found;
  }
};

}  // namespace tgv::cuda
