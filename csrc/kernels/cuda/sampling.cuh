// What      One token for every sequence, from its row of logits: penalties, filters, a draw, and
//           log-probabilities. All that it depends on is in device memory, so that a graph of a
//           decode step ends with it and is replayed without the host.
//
// Math      kernels/cpu/sampling.h, number for number: weights of the draw are integers, so their
//           sums depend on no order, and exp has the CPU's sequence of roundings. The token is
//           that of the CPU, bit for bit of the logits.
//
// Tensors   SamplingParams (sampling.h).
//
// Threads   One block of 1024 per sequence. Each warp has a span of consecutive ids, its lanes the
//           ids in turn. A sum over the row is a shuffle tree in every warp, whose results meet in
//           shared memory; two sets of slots take turns, so that one barrier a sum is enough.
//           Nothing sorts: "the largest key that so many reach" is found bit by bit, 32 sums over a
//           short list. The list of top_k holds what reaches the k-th largest of the threads' own
//           maxima, that of top_p what is more probable than (1 - p) / V; where one does not fit
//           into shared memory the row itself is searched.
//
// Traffic   V = 51200: 200 KB that the product before has left in L2, read twice by a greedy step,
//           about five times by a draw. Settings that change logits copy the row once.
//
// Limits    sampling_why_not (sampling.h).
//
// Numerics  The token: exact. log-softmax: fp32, the sum of a thread's exponentials in order, then
//           the tree, then the warps in order; it depends on V alone.
//
// Oracle    kernels/cpu/sampling on the same logits, csrc/tests/cuda_sampling_test.cc.
#pragma once

#include "kernels/cuda/device/exact.cuh"
#include "kernels/cuda/device/platform.cuh"
#include "kernels/cuda/sampling.h"

namespace tgv::cuda {

constexpr int kSamplingThreads = 1024, kSamplingWarps = kSamplingThreads / 32;
constexpr int kSamplingListed = 2048;
constexpr float kFloatLargest = 3.4028234663852886e38f;

// Keys: unsigned integers in the order of floats; both zeros have one, NaN is above everything.
constexpr uint32_t kInfinityKey = 0xff800000u, kMinusInfinityKey = 0x007fffffu;

__device__ __forceinline__ uint32_t key_of(float value) {
  if (!(value == value)) return 0xffffffffu;
  const uint32_t bits = bits_of(exact_add(value, 0.0f));  // -0 becomes 0
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float value_of(uint32_t key) {
  return bits_to_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

// An exponential in 0..1 as an integer: at most 2^62 for 2^22 of them.
__device__ __forceinline__ uint64_t token_weight(float e) {
  return static_cast<uint64_t>(static_cast<int64_t>(exact_multiply(e, 0x1p40f)));
}

// Sums and maxima over all threads, with the same result in each.
struct BlockReduction {
  uint64_t* slots;  // [2][kSamplingWarps]
  int turn = 0;

  template <class Combine>
  __device__ __forceinline__ uint64_t all(uint64_t value, Combine combine) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) value = combine(value, __shfl_xor_sync(0xffffffffu, value, d));
    uint64_t* const mine = slots + turn * kSamplingWarps;
    turn ^= 1;
    if ((threadIdx.x & 31) == 0) mine[threadIdx.x >> 5] = value;
    __syncthreads();
    value = mine[0];
    for (int w = 1; w < kSamplingWarps; ++w) value = combine(value, mine[w]);
    return value;
  }
  __device__ __forceinline__ uint64_t sum(uint64_t value) {
    return all(value, [](uint64_t a, uint64_t b) { return a + b; });
  }
  __device__ __forceinline__ uint64_t largest(uint64_t value) {
    return all(value, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
  }
  __device__ __forceinline__ float float_sum(float value) {
    return bits_to_float(
        static_cast<uint32_t>(all(bits_of(value), [](uint64_t a, uint64_t b) -> uint64_t {
          return bits_of(exact_add(bits_to_float(static_cast<uint32_t>(a)),
                                   bits_to_float(static_cast<uint32_t>(b))));
        })));
  }
  // What each warp's values came to in the last call.
  __device__ __forceinline__ uint64_t* of_warps() { return slots + (turn ^ 1) * kSamplingWarps; }
};

// The ids of a warp, and this lane's among them.
struct Span {
  int begin, end;

  __device__ __forceinline__ explicit Span(int vocab) {
    const int width = (vocab + kSamplingThreads - 1) / kSamplingThreads * 32;
    begin = static_cast<int>(threadIdx.x >> 5) * width;
    end = begin + width < vocab ? begin + width : vocab;
  }
  template <class F>
  __device__ __forceinline__ void each(const float* row, F f) const {
#pragma unroll 8
    for (int id = begin + static_cast<int>(threadIdx.x & 31); id < end; id += 32) f(id, row[id]);
  }
};

// Largest key, and the lowest id among its equals, as one number.
__device__ __forceinline__ uint64_t key_and_id(float logit, int id) {
  return uint64_t{key_of(logit)} << 32 | ~static_cast<uint32_t>(id);
}
__device__ __forceinline__ int id_of(uint64_t key_and_id) {
  return static_cast<int>(~static_cast<uint32_t>(key_and_id));
}
__device__ __forceinline__ uint32_t key_part(uint64_t key_and_id) {
  return static_cast<uint32_t>(key_and_id >> 32);
}

// The largest key that elements of `target` in all reach; 0 if no key is. reaching(key) is what
// this thread's elements with at least that key sum to.
template <class Reaching>
__device__ __forceinline__ uint32_t largest_key(BlockReduction& block, uint64_t target,
                                                Reaching reaching) {
  uint32_t key = 0;
  for (int bit = 31; bit >= 0; --bit) {
    const uint32_t next = key | 1u << bit;
    if (block.sum(reaching(next)) >= target) key = next;
  }
  return key;
}

// What of the row is worth a second look, in any order. If more were wanted than fit, the search
// goes to the row.
struct List {
  float* values;   // [kSamplingListed]
  int32_t* count;  // how many were wanted

  template <class Wanted>
  __device__ __forceinline__ void gather(const Span& span, const float* row, Wanted wanted) const {
    if (threadIdx.x == 0) *count = 0;
    __syncthreads();
    span.each(row, [&](int, float logit) {
      float value = logit;
      if (!wanted(value)) return;
      const int at = block_fetch_add(count, 1);
      if (at < kSamplingListed) values[at] = value;
    });
    __syncthreads();
  }
  __device__ __forceinline__ bool complete() const { return *count <= kSamplingListed; }

  // The sum of weight(value) over this thread's values with at least `key`.
  template <class Weight>
  __device__ __forceinline__ uint64_t reaching(uint32_t key, Weight weight) const {
    uint64_t sum = 0;
    for (int i = static_cast<int>(threadIdx.x); i < *count; i += kSamplingThreads) {
      if (key_of(values[i]) >= key) sum += weight(values[i]);
    }
    return sum;
  }
};

// One sequence's work. All threads run it together.
struct Sampler {
  const SamplingParams& p;
  const SamplingSettings s;
  const int sequence;
  const Span span;
  BlockReduction block;
  const List list;

  __device__ __forceinline__ const float* logits() const {
    return p.logits + sequence * p.logits_stride;
  }

  __device__ __forceinline__ bool penalizes() const {
    return p.history && (s.repetition_penalty != 1.0f || s.presence_penalty != 0.0f ||
                         s.frequency_penalty != 0.0f);
  }

  __device__ __forceinline__ bool changes_logits() const {
    return penalizes() || s.bias_end > s.bias_begin || s.banned_end > s.banned_begin;
  }

  __device__ __forceinline__ float penalized(float logit, int count) const {
    const float r = s.repetition_penalty;
    if (r != 1.0f) logit = logit < 0.0f ? exact_multiply(logit, r) : exact_divide(logit, r);
    logit = exact_add(logit, -exact_multiply(s.frequency_penalty, static_cast<float>(count)));
    logit = exact_add(logit, -s.presence_penalty);
    return logit < kFloatLargest ? logit : kFloatLargest;
  }

  // Every id of the history once, by whoever finds its count.
  __device__ __forceinline__ void penalize(float* row) const {
    const int32_t* ids = p.history + sequence * p.history_stride;
    int32_t* counts = p.counts + int64_t{sequence} * p.vocab;
    const int length = p.history_lengths[sequence];
    const auto each = [&](auto f) {
      for (int i = static_cast<int>(threadIdx.x); i < length; i += kSamplingThreads) {
        if (ids[i] >= 0 && ids[i] < p.vocab) f(ids[i]);
      }
    };
    each([&](int id) { block_fetch_add(counts + id, 1); });
    __syncthreads();
    each([&](int id) {
      const int count = block_exchange(counts + id, 0);
      if (count > 0) row[id] = penalized(row[id], count);
    });
  }

  // Who finds the first of equal ids adds them all, in their order.
  __device__ __forceinline__ void add_bias(float* row) const {
    for (int i = s.bias_begin + static_cast<int>(threadIdx.x); i < s.bias_end;
         i += kSamplingThreads) {
      const int id = p.bias_ids[i];
      if (i > s.bias_begin && p.bias_ids[i - 1] == id) continue;
      float logit = row[id];
      for (int j = i; j < s.bias_end && p.bias_ids[j] == id; ++j) {
        logit = exact_add(logit, p.bias_values[j]);
        if (logit > kFloatLargest) logit = kFloatLargest;
      }
      row[id] = logit;
    }
  }

  // The row to choose from: the logits as given, or a changed copy.
  __device__ __forceinline__ const float* processed() const {
    if (!changes_logits()) return logits();
    float* row = p.row + int64_t{sequence} * p.vocab;
    span.each(logits(), [&](int id, float logit) { row[id] = logit; });
    __syncthreads();
    add_bias(row);
    if (penalizes()) penalize(row);  // its own barrier comes before the row is read again
    __syncthreads();
    for (int i = s.banned_begin + static_cast<int>(threadIdx.x); i < s.banned_end;
         i += kSamplingThreads) {
      row[p.banned_ids[i]] = value_of(kMinusInfinityKey);
    }
    __syncthreads();
    return row;
  }

  __device__ __forceinline__ uint64_t own_best(const float* row) const {
    uint64_t best = 0;
    span.each(row, [&](int id, float logit) {
      const uint64_t one = key_and_id(logit, id);
      if (one > best) best = one;
    });
    return best;
  }

  // The n-th largest logit's key, n in 1..V. `own`: this thread's largest key.
  __device__ __forceinline__ uint32_t nth_key(const float* row, uint32_t own, int n) {
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

  __device__ __forceinline__ int draw(const float* row, uint64_t own, int32_t* found);

  // The best ids one after another: whoever held the last one looks for its next.
  template <class Logprob>
  __device__ __forceinline__ void write_top(uint64_t own, Logprob logprob) {
    const int64_t at = int64_t{sequence} * p.top;
    for (int i = 0; i < p.top; ++i) {
      const uint64_t best = block.largest(own);
      if (threadIdx.x == 0) {
        p.top_ids[at + i] = id_of(best);
        p.top_logprobs[at + i] = logprob(value_of(key_part(best)));
      }
      if (own != best) continue;
      own = 0;
      span.each(logits(), [&](int id, float logit) {
        const uint64_t one = key_and_id(logit, id);
        if (one < best && one > own) own = one;
      });
    }
  }
};

// --- the draw -----------------------------------------------------------------------------------
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

// The id; own: this thread's best of the row; found: a shared word.
__device__ __forceinline__ int Sampler::draw(const float* row, uint64_t own, int32_t* found) {
  const uint64_t best = block.largest(own);
  // Below 2^-126 the inverse would be infinite and 0 times it NaN.
  const float slope = s.temperature < 0x1p-126f ? kFloatLargest : exact_divide(1.0f, s.temperature);
  Weights weights = {value_of(key_part(best)), slope, 0, 0};
  if (s.top_k > 0 && s.top_k < p.vocab) weights.least_logit = nth_key(row, key_part(own), s.top_k);
  uint64_t sum = 0;
  span.each(row, [&](int, float logit) { sum += weights.of(logit); });
  uint64_t total = block.sum(sum);
  if (s.top_p < 1.0f) {
    const uint64_t wanted = nucleus_of(s.top_p, total);
    // What weighs no more than (W - wanted) / V cannot be in the nucleus: V of it would be too
    // little to be missed. A little less than that, for the rounding of the quotient.
    const uint64_t each = (total - wanted) / static_cast<uint64_t>(p.vocab);
    const double light = static_cast<double>(each) * 0x1p-40;
    const float least = static_cast<float>(light * (1 - 0x1p-20));
    list.gather(span, row, [&](float& value) {
      if (key_of(value) < weights.least_logit) return false;
      value = weights.exponential(value);
      return value >= least;
    });
    const bool listed = list.complete();
    weights.least = largest_key(block, wanted, [&](uint32_t key) {
      if (listed) return list.reaching(key, token_weight);
      Weights some = weights;
      some.least = key;
      uint64_t reach = 0;
      span.each(row, [&](int, float logit) { reach += some.of(logit); });
      return reach;
    });
  }
  const uint32_t probable = key_of(s.min_p);
  if (probable > weights.least) weights.least = probable;
  sum = 0;
  span.each(row, [&](int, float logit) { sum += weights.of(logit); });
  total = block.sum(sum);
  const uint64_t r = random_bits(s.seed, p.positions[sequence], s.sample);
  find_id(span, row, weights, block.of_warps(), total, r, found);
  __syncthreads();
  return *found;
}

// --- the kernel ---------------------------------------------------------------------------------
__device__ __forceinline__ bool is_finite_key(uint32_t key) {
  return key > kMinusInfinityKey && key < kInfinityKey;
}

__device__ __forceinline__ void write_none(const SamplingParams& p, int sequence) {
  const float nan = bits_to_float(0x7fc00000u);
  if (threadIdx.x == 0) {
    p.ids[sequence] = -1;
    p.logprobs[sequence] = nan;
  }
  for (int i = static_cast<int>(threadIdx.x); i < p.top; i += kSamplingThreads) {
    p.top_ids[int64_t{sequence} * p.top + i] = -1;
    p.top_logprobs[int64_t{sequence} * p.top + i] = nan;
  }
}

// kTop: p.top > 0.
template <bool kTop>
__global__ void __launch_bounds__(kSamplingThreads, 1) sample_rows(const SamplingParams p) {
  TGV_SHARED(uint64_t, slots, [2 * kSamplingWarps]);
  TGV_SHARED(float, values, [kSamplingListed]);
  TGV_SHARED(int32_t, words, [2]);
  const int sequence = static_cast<int>(blockIdx.x);
  Sampler sampler = {p, p.settings[sequence], sequence, Span(p.vocab), {slots}, {values, words}};
  const float* const logits = sampler.logits();
  const uint64_t own = sampler.own_best(logits);
  const uint32_t highest = key_part(sampler.block.largest(own));
  if (!is_finite_key(highest)) return write_none(p, sequence);
  const float peak = value_of(highest);
  float sum = 0.0f;
  sampler.span.each(logits, [&](int, float logit) {
    sum = exact_add(sum, exp_of_negative(exact_add(logit, -peak)));
  });
  const double total = static_cast<double>(sampler.block.float_sum(sum));
  const float log_sum = static_cast<float>(log(total));
  const auto logprob = [&](float logit) { return exact_add(exact_add(logit, -peak), -log_sum); };
  if constexpr (kTop) sampler.write_top(own, logprob);
  const float* const row = sampler.processed();
  const uint64_t chosen = row == logits ? own : sampler.own_best(row);
  const uint64_t best = sampler.block.largest(chosen);
  const bool none = !is_finite_key(key_part(best));
  int id = none ? -1 : id_of(best);
  if (!none && sampler.s.temperature != 0.0f) id = sampler.draw(row, chosen, words + 1);
  if (threadIdx.x != 0) return;
  p.ids[sequence] = id;
  p.logprobs[sequence] = none ? bits_to_float(0x7fc00000u) : logprob(logits[id]);
}

}  // namespace tgv::cuda
