// The row that sampling.cuh chooses from: the logits as given, or a copy with bias, penalties and
// bans.
#pragma once

#include "kernels/cuda/sampling.h"
#include "kernels/cuda/sampling_block.cuh"

namespace tgv::cuda {

// Of one sequence. All threads work on it together.
struct ProcessedRow {
  const SamplingParams& p;
  const SamplingSettings& s;
  const int sequence;
  const Span& span;

  __device__ __forceinline__ const float* logits() const {
    return p.logits + (p.logit_rows ? p.logit_rows[sequence] : sequence) * p.logits_stride;
  }

  __device__ __forceinline__ bool penalizes() const {
    return s.history_end > s.history_begin &&
           (s.repetition_penalty != 1.0f || s.presence_penalty != 0.0f ||
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
    int32_t* counts = p.counts + int64_t{sequence} * p.vocab;
    const auto each = [&](auto f) {
      for (int i = s.history_begin + static_cast<int>(threadIdx.x); i < s.history_end;
           i += kSamplingThreads) {
        const int id = p.history[i];
        if (id >= 0 && id < p.vocab) f(id);
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
};

}  // namespace tgv::cuda
