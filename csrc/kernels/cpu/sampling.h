// From one row of logits to one token: penalties, filters, a draw; and log-probabilities.
//
// What     In this order: logit_bias is added; the repetition penalty, then the frequency and the
//          presence penalty, act on the ids of the history; banned ids, and those that are not
//          allowed, become -inf. Greedy takes the largest, the lowest id of equals. Otherwise
//          temperature, top_k, top_p and min_p, as Hugging Face's processors do, and one draw.
// Math     l: processed logits, L the largest. e = exp((l - L) (1 / temperature)),
//          w = floor(2^40 e), integers from here on.
//          repetition   l < 0 ? l p : l / p, once for every id of the history
//          frequency    l - p count, presence: l - p
//          top_k        keeps l >= the k-th largest: equals of it stay
//          top_p        keeps those whose larger ones (e) sum to less than floor(p W), W the sum
//                       of all w that top_k left: the smallest set that reaches p; equals stay
//          min_p        keeps e >= min_p
//          draw         the first id whose running sum of w, in ascending ids over what is kept,
//                       is more than floor(W' r / 2^64); r = random_bits(seed, position, sample)
// Tensors  logits [V] f32, not modified.
// Threads  None; one row at a time. Nothing is allocated; all memory is `scratch`.
// Traffic  V = 51200: 200 KB of logits, read twice from L2 (maximum; log-sum-exp). A penalty or a
//          ban costs one copy of the row, a draw without top_k one row of exponentials. Nothing
//          sorts V: top_k looks at what reaches the k-th largest of V/64 maxima, top_p at what is
//          more probable than (1 - p) / V, by three passes of 11 bits each.
// Numerics Sums of w are exact, so the token depends on no order of addition; e has one rounding
//          sequence on all ISAs (lanes.h): the same logits, parameters and counter give the same
//          token everywhere. A draw without top_k or top_p is off by V 2^-40 in all. logprob:
//          (x - max) - log sum exp(x - max) of the logits as given; the sum is four chains of 16
//          lanes over 1024 elements, then double: its relative error is below 24 2^-24.
// Limits   V in 1..2^22. -inf is a logit like any other; NaN and +inf mean no token.
// Oracle   tinygptv_fast.reference.sampling (numpy), tested to be exactly equal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "base/isa.h"

namespace tgv::cpu {

struct SamplingParams {
  float temperature = 0;         // 0: greedy, and top_k, top_p and min_p are not read
  int64_t top_k = 0;             // 0: all
  float top_p = 1;               // 1: all
  float min_p = 0;               // 0: all
  float repetition_penalty = 1;  // 1: none
  float presence_penalty = 0;
  float frequency_penalty = 0;
  std::span<const std::pair<int32_t, float>> logit_bias;  // added, one after another
  std::span<const int32_t> banned;                        // never chosen at this step
  std::span<const uint32_t> allowed;  // [ceil(V/32)] bit i % 32 of word i / 32: id i; empty: all
  uint64_t seed = 0;
  uint32_t sample = 0;  // which of several samples of one prompt
};

// Empty, or one sentence about the first bad field.
std::string sampling_why_not(const SamplingParams& params, int64_t vocab);

struct SampleInput {
  const float* logits = nullptr;     // [V]
  int64_t vocab = 0;                 // V
  std::span<const int32_t> history;  // what the penalties see; ids in 0..V-1
  int64_t position = 0;              // of the token to come: the random counter
};

struct SampleResult {
  int32_t id = -1;     // -1: no token
  float logprob = 0;   // log-softmax of the unprocessed logits at id; NaN without a token
  bool finite = true;  // false: no token; logits hold NaN or +inf, or nothing above -inf is left
};

size_t sampling_scratch_bytes(int64_t vocab);

// scratch: [sampling_scratch_bytes(vocab)], 64-byte aligned; any content. Throws InvalidArgument
// for an id of the history outside 0..V-1; parameters are the caller's to check
// (sampling_why_not).
SampleResult sample(const SampleInput& input, const SamplingParams& params, void* scratch, Isa isa);

// The n largest logits, best first, lowest id first among equals: ids [n] and their log-softmax
// [n]. n in 1..V; scratch as above. False, with ids -1 and NaN, if logits hold NaN or +inf or
// nothing above -inf.
bool top_logprobs(int32_t* ids, float* logprobs, int64_t n, const float* logits, int64_t vocab,
                  void* scratch, Isa isa);

// y [V] may be logits itself. A row with NaN or +inf, or all -inf, gives NaN.
void log_softmax_row(float* y, const float* logits, int64_t vocab, Isa isa);

}  // namespace tgv::cpu
