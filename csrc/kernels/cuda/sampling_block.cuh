// What the threads of a block do together in sampling.cuh: sums and maxima over a row, and the
// search for a key that so many reach.
#pragma once

#include "kernels/cuda/sampling_keys.cuh"

namespace tgv::cuda {

constexpr int kSamplingThreads = 1024, kSamplingWarps = kSamplingThreads / 32;
constexpr int kSamplingListed = 2048;

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

}  // namespace tgv::cuda
