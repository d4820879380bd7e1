// What      One token for every sequence, from its row of logits: penalties, filters, a draw, and
//           log-probabilities. All that it depends on is in device memory, so that a graph of a
//           decode step ends with it and is replayed without the host.
//
// Math      kernels/cpu/sampling.h, number for number: weights of the draw are integers, so their
//           sums depend on no order, and exp has the CPU's sequence of roundings. The token is
//           that of the CPU, bit for bit of the logits.
//
// Files     sampling_keys.cuh   floats as keys, exponentials as weights
//           sampling_block.cuh  sums, maxima and searches over a row
//           sampling_row.cuh    bias, penalties and bans
//           sampling_draw.cuh   filters and the draw
//           this one            log-probabilities, the best ids, and the kernel
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

#include "kernels/cuda/device/dependent.cuh"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/sampling_draw.cuh"
#include "kernels/cuda/sampling_row.cuh"

namespace tgv::cuda {

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

// This thread's best of a row.
__device__ __forceinline__ uint64_t own_best(const Span& span, const float* row) {
  uint64_t best = 0;
  span.each(row, [&](int id, float logit) {
    const uint64_t one = key_and_id(logit, id);
    if (one > best) best = one;
  });
  return best;
}

// The best ids one after another: whoever held the last one looks for its next. own: this thread's
// best of the logits.
template <class Logprob>
__device__ __forceinline__ void write_top(const SamplingParams& p, const ProcessedRow& of,
                                          BlockReduction& block, uint64_t own, Logprob logprob) {
  const int64_t at = int64_t{of.sequence} * p.top;
  for (int i = 0; i < p.top; ++i) {
    const uint64_t best = block.largest(own);
    if (threadIdx.x == 0) {
      p.top_ids[at + i] = id_of(best);
      p.top_logprobs[at + i] = logprob(value_of(key_part(best)));
    }
    if (own != best) continue;
    own = 0;
    of.span.each(of.logits(), [&](int id, float logit) {
      const uint64_t one = key_and_id(logit, id);
      if (one < best && one > own) own = one;
    });
  }
}

// The logarithm of the sum of exponentials over a row whose largest is `peak`.
__device__ __forceinline__ float log_sum_of(const Span& span, BlockReduction& block,
                                            const float* row, float peak) {
  float sum = 0.0f;
  span.each(row, [&](int, float logit) {
    sum = exact_add(sum, exp_of_negative(exact_add(logit, -peak)));
  });
  return static_cast<float>(log(static_cast<double>(block.float_sum(sum))));
}

// --- the kernel ---------------------------------------------------------------------------------
// kTop: p.top > 0.
template <bool kTop>
__global__ void __launch_bounds__(kSamplingThreads, 1) sample_rows(const SamplingParams p) {
  wait_for_previous();
  TGV_SHARED(uint64_t, slots, [2 * kSamplingWarps]);
  TGV_SHARED(float, values, [kSamplingListed]);
  TGV_SHARED(int32_t, words, [2]);
  const int sequence = static_cast<int>(blockIdx.x);
  if (p.logit_rows && p.logit_rows[sequence] < 0) return write_none(p, sequence);
  const SamplingSettings s = p.settings[sequence];
  const Span span(p.vocab);
  BlockReduction block{slots};
  const List list{values, words};
  const ProcessedRow of{p, s, sequence, span};

  const float* const logits = of.logits();
  const uint64_t own = own_best(span, logits);
  const uint32_t highest = key_part(block.largest(own));
  if (!is_finite_key(highest)) return write_none(p, sequence);
  const float peak = value_of(highest), log_sum = log_sum_of(span, block, logits, peak);
  const auto logprob = [&](float logit) { return exact_add(exact_add(logit, -peak), -log_sum); };
  if constexpr (kTop) write_top(p, of, block, own, logprob);

  const float* const row = of.processed();
  const uint64_t chosen = row == logits ? own : own_best(span, row);
  const uint64_t best = block.largest(chosen);
  const bool none = !is_finite_key(key_part(best));
  int id = none ? -1 : id_of(best);
  if (!none && s.temperature != 0.0f) {
    const Drawing drawing{s, p.vocab, span, block, list};
    id = drawing.id(row, chosen, p.positions[sequence], words + 1);
  }
  if (threadIdx.x != 0) return;
  p.ids[sequence] = id;
  p.logprobs[sequence] = none ? bits_to_float(0x7fc00000u) : logprob(logits[id]);
}

}  // namespace tgv::cuda
