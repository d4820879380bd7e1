// From rows of logits to tokens on the device: the problem and when the kernel can take it. Host
// code only; the kernel is sampling.cuh. What each setting means, and the order in which they act,
// is kernels/cpu/sampling.h: the same logits, settings and counter give the same token on both.
#pragma once

#include <cstdint>
#include <string>

namespace tgv::cuda {

// Of one sequence, in device memory; read anew at every launch, so that a captured graph may be
// replayed with others. What fields allow is cpu::sampling_why_not; it is the caller's to check.
struct SamplingSettings {
  float temperature = 0;  // 0: greedy
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  int32_t top_k = 0;
  uint32_t sample = 0;
  uint64_t seed = 0;
  int32_t history_begin = 0, history_end = 0;  // of SamplingParams::history
  int32_t bias_begin = 0, bias_end = 0;        // of SamplingParams::bias_ids
  int32_t banned_begin = 0, banned_end = 0;    // of SamplingParams::banned_ids
};

inline constexpr int32_t kSamplingMaxTop = 64;

struct SamplingParams {
  int32_t sequences = 0;          // S
  int32_t vocab = 0;              // V
  int32_t top = 0;                // the best ids that are wanted as well, of the logits as given
  const float* logits = nullptr;  // [S, logits_stride] f32, not modified
  int64_t logits_stride = 0;      // numbers, at least V
  const int32_t* logit_rows = nullptr;  // [S] row of each; null: its own number. Then logits is
                                        // [any, logits_stride], several may share a row, and a
                                        // negative one has no token: padding of a batch
  const SamplingSettings* settings = nullptr;  // [S]
  const int64_t* positions = nullptr;          // [S]: of the token to come, the random counter

  // What the penalties see, of all sequences; null: nothing. An id outside 0..V-1 counts for
  // nothing.
  const int32_t* history = nullptr;

  // Sorted by id within each sequence's part; equals are added in their order. May be null.
  const int32_t* bias_ids = nullptr;
  const float* bias_values = nullptr;
  const int32_t* banned_ids = nullptr;

  float* row = nullptr;       // [S, V] f32, any content; null: no settings that change logits
  int32_t* counts = nullptr;  // [S, V], 0 before and after; null with history

  int32_t* ids = nullptr;         // [S]; -1: no token: NaN, +inf or nothing above -inf
  float* logprobs = nullptr;      // [S] f32: log-softmax of the logits as given; NaN: no token
  int32_t* top_ids = nullptr;     // [S, top], best first, the lowest of equals first
  float* top_logprobs = nullptr;  // [S, top]
};

// Bytes that a greedy step must read and write: the logits once.
int64_t sampling_bytes(const SamplingParams& p);

// Empty if the kernel can take the problem, otherwise the reason.
std::string sampling_why_not(const SamplingParams& p);

}  // namespace tgv::cuda
