#include "kernels/cpu/sampling.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/errors.h"
#include "kernels/cpu/philox.h"
#include "kernels/cpu/sampling_body.h"

namespace tgv::cpu {

SamplingBody sampling_body_portable() { return kBody; }

namespace {

constexpr int64_t kMaxVocab = int64_t{1} << 22;  // so that 2^40 of each sum below 2^63
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kLargest = std::numeric_limits<float>::max();

SamplingBody body_of(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512 || isa == Isa::kAvx512Vnni) return sampling_body_avx512();
  if (isa == Isa::kAvx2 || isa == Isa::kAvxVnni) return sampling_body_avx2();
#endif
  (void)isa;
  return sampling_body_portable();
}

int64_t maxima_of(int64_t vocab) { return (vocab + kChunk - 1) / kChunk * kChunkMaxima; }

int64_t padded(int64_t count) { return (count + 15) / 16 * 16; }  // 64 bytes of 4

// Four arrays, one after another.
struct Scratch {
  float* row;     // [V] processed logits
  float* values;  // [V] candidates: logits, then exponentials
  int32_t* ids;   // [V] theirs; before that, counts of the history
  float* maxima;  // [maxima_of(V)]

  Scratch(void* memory, int64_t vocab)
      : row(static_cast<float*>(memory)),
        values(row + padded(vocab)),
        ids(reinterpret_cast<int32_t*>(values + padded(vocab))),
        maxima(reinterpret_cast<float*>(ids + padded(vocab))) {}
};

// --- log-softmax --------------------------------------------------------------------------------
struct Normalizer {
  float peak = kNan, log_sum = kNan;
  bool finite = false;

  float logprob(float logit) const { return (logit - peak) - log_sum; }
};

Normalizer normalizer_of(const SamplingBody& body, const float* logits, int64_t vocab,
                         float* maxima) {
  Normalizer out;
  const float peak = body.lane_maxima(maxima, logits, vocab);
  if (!std::isfinite(peak)) return out;
  const double sum = body.sum_exp(logits, vocab, peak);
  if (std::isnan(sum)) return out;
  return {peak, static_cast<float>(std::log(sum)), true};
}

// The first id whose logit is `peak`, the largest. Its chunk shows in the maxima.
int32_t first_of(const float* row, int64_t vocab, const float* maxima, float peak) {
  const int64_t count = maxima_of(vocab);
  const int64_t place = std::find(maxima, maxima + count, peak) - maxima;
  const float* begin = row + place / kChunkMaxima * kChunk;
  return static_cast<int32_t>(std::find(begin, row + vocab, peak) - row);
}

// --- penalties ----------------------------------------------------------------------------------
bool penalizes(const SamplingParams& p) {
  return p.repetition_penalty != 1 || p.presence_penalty != 0 || p.frequency_penalty != 0;
}

float penalized(float logit, int32_t count, const SamplingParams& p) {
  const float r = p.repetition_penalty;
  if (r != 1) logit = logit < 0 ? logit * r : logit / r;
  logit -= p.frequency_penalty * static_cast<float>(count);
  return std::min(logit - p.presence_penalty, kLargest);
}

void check_history(std::span<const int32_t> history, int64_t vocab) {
  for (size_t i = 0; i < history.size(); ++i) {
    if (history[i] >= 0 && history[i] < vocab) continue;
    throw InvalidArgument(concat("history[", i, "] is ", history[i], ", expected 0..", vocab - 1));
  }
}

void forbid_others(float* row, int64_t vocab, std::span<const uint32_t> allowed) {
  for (int64_t first = 0; first < vocab; first += 32) {
    const uint32_t bits = allowed[static_cast<size_t>(first / 32)];
    if (bits == ~uint32_t{0}) continue;
    const int64_t count = std::min<int64_t>(32, vocab - first);
    for (int64_t i = 0; i < count; ++i) {
      if (!(bits >> i & 1)) row[first + i] = -std::numeric_limits<float>::infinity();
    }
  }
}

// The row to choose from: the logits themselves, or a changed copy of them.
const float* process(const SampleInput& input, const SamplingParams& p, const Scratch& scratch) {
  const bool penalize = penalizes(p) && !input.history.empty();
  if (!penalize && p.logit_bias.empty() && p.banned.empty() && p.allowed.empty()) {
    return input.logits;
  }
  float* row = scratch.row;
  std::memcpy(row, input.logits, static_cast<size_t>(input.vocab) * sizeof(float));
  for (const auto& [id, bias] : p.logit_bias) row[id] = std::min(row[id] + bias, kLargest);
  if (penalize) {
    check_history(input.history, input.vocab);
    int32_t* counts = scratch.ids;
    for (const int32_t id : input.history) counts[id] = 0;
    for (const int32_t id : input.history) ++counts[id];
    for (const int32_t id : input.history) {
      if (counts[id] > 0) row[id] = penalized(row[id], counts[id], p);
      counts[id] = 0;  // once for each id
    }
  }
  for (const int32_t id : p.banned) row[id] = -std::numeric_limits<float>::infinity();
  if (!p.allowed.empty()) forbid_others(row, input.vocab, p.allowed);
  return row;
}

// --- selection ----------------------------------------------------------------------------------
// Unsigned integers in the order of floats, and back.
uint32_t key_of(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
float value_of(uint32_t key) { return std::bit_cast<float>(key >> 31 ? key & 0x7fffffffu : ~key); }

// The largest v of `values` such that those >= v weigh at least `target`; -inf if all weigh less.
// From the top, 11, 11 and 10 bits of the key: the bucket that reaches the target is searched next.
template <class Weight>
float threshold(const float* values, int64_t count, uint64_t target, Weight weight) {
  constexpr int kShifts[] = {21, 10, 0}, kBits[] = {11, 11, 10};
  uint32_t prefix = 0;
  uint64_t above = 0;
  for (int level = 0; level < 3; ++level) {
    const int shift = kShifts[level], top = shift + kBits[level];
    uint64_t buckets[1 << 11] = {};
    for (int64_t i = 0; i < count; ++i) {
      const uint64_t key = key_of(values[i]);
      if (key >> top == prefix)
        buckets[key >> shift & ((1u << kBits[level]) - 1)] += weight(values[i]);
    }
    int64_t bucket = (int64_t{1} << kBits[level]) - 1;
    while (bucket >= 0 && above + buckets[bucket] < target) above += buckets[bucket--];
    if (bucket < 0) return -std::numeric_limits<float>::infinity();  // only at the first level
    prefix = prefix << kBits[level] | static_cast<uint32_t>(bucket);
  }
  return value_of(prefix);
}

float nth_largest(const float* values, int64_t count, int64_t n) {
  return threshold(values, count, static_cast<uint64_t>(n), [](float) { return uint64_t{1}; });
}

struct Candidates {
  float* values;
  int32_t* ids;
  int64_t count;

  // Drops what is below `least`, in order.
  void keep(float least) {
    int64_t kept = 0;
    for (int64_t i = 0; i < count; ++i) {
      values[kept] = values[i];
      ids[kept] = ids[i];
      kept += values[i] >= least;
    }
    count = kept;
  }
};

// The ids whose logits are at least the n-th largest. The n-th largest of the maxima is no larger
// than that of the row, so that most of the row is passed over.
Candidates largest(const SamplingBody& body, const float* row, int64_t vocab, int64_t n,
                   const Scratch& scratch) {
  const int64_t maxima = maxima_of(vocab);
  const float least = n <= maxima ? nth_largest(scratch.maxima, maxima, n)
                                  : -std::numeric_limits<float>::infinity();
  Candidates all{scratch.values, scratch.ids, 0};
  all.count = body.collect(all.values, all.ids, row, vocab, least);
  all.keep(nth_largest(all.values, all.count, n));
  return all;
}

// --- the draw -----------------------------------------------------------------------------------
// The index where the running sum of weights passes floor(total r / 2^64).
int64_t index_of(const float* e, uint64_t total, uint64_t r) {
  __extension__ typedef unsigned __int128 Wide;
  const uint64_t target = static_cast<uint64_t>(Wide{total} * r >> 64);
  int64_t i = 0;
  for (uint64_t sum = token_weight(e[0]); sum <= target; sum += token_weight(e[i])) ++i;
  return i;
}

// What top_p asks the kept ones to weigh, of W = total.
uint64_t nucleus_of(float top_p, uint64_t total) {
  const double wanted = static_cast<double>(top_p) * static_cast<double>(total);
  return std::max<uint64_t>(static_cast<uint64_t>(wanted), 1);
}

// top_p and min_p on exponentials that weigh `total` with those already left out.
int32_t draw_from(Candidates all, const SamplingParams& p, uint64_t total, uint64_t r) {
  float least = p.min_p;
  if (p.top_p < 1) {
    least =
        std::max(least, threshold(all.values, all.count, nucleus_of(p.top_p, total), token_weight));
  }
  all.keep(least);
  uint64_t kept = 0;
  for (int64_t i = 0; i < all.count; ++i) kept += token_weight(all.values[i]);
  return all.ids[index_of(all.values, kept, r)];
}

int32_t draw(const SamplingBody& body, const float* row, float peak, const SampleInput& input,
             const SamplingParams& p, const Scratch& scratch) {
  const int64_t vocab = input.vocab;
  const uint64_t r = random_bits(p.seed, input.position, p.sample);
  // Below 2^-126 the inverse would be infinite and 0 times it NaN.
  const float slope = p.temperature < 0x1p-126f ? kLargest : 1.0f / p.temperature;
  if (p.top_k > 0 && p.top_k < vocab) {
    const Candidates some = largest(body, row, vocab, p.top_k, scratch);
    const uint64_t total = body.weigh(some.values, some.values, some.count, peak, slope);
    return draw_from(some, p, total, r);
  }
  const uint64_t total = body.weigh(scratch.values, row, vocab, peak, slope);
  if (p.top_p >= 1 && p.min_p <= 0) {
    return static_cast<int32_t>(index_of(scratch.values, total, r));
  }
  // Whatever weighs no more than (W - wanted) / V cannot be in the nucleus: V of it would be too
  // little to be missed. A little less than that, for the rounding of the quotient.
  const uint64_t spare = p.top_p < 1 ? total - nucleus_of(p.top_p, total) : 0;
  const double light = static_cast<double>(spare / static_cast<uint64_t>(vocab)) * 0x1p-40;
  const float least = std::max(p.min_p, static_cast<float>(light * (1 - 0x1p-20)));
  Candidates some{scratch.values, scratch.ids, 0};
  some.count = body.collect(some.values, some.ids, some.values, vocab, least);
  return draw_from(some, p, total, r);
}

}  // namespace

size_t sampling_scratch_bytes(int64_t vocab) {
  return static_cast<size_t>(3 * padded(vocab) + maxima_of(vocab)) * sizeof(float);
}

SampleResult sample(const SampleInput& input, const SamplingParams& params, void* memory, Isa isa) {
  const SamplingBody body = body_of(isa);
  const Scratch scratch(memory, input.vocab);
  const Normalizer raw = normalizer_of(body, input.logits, input.vocab, scratch.maxima);
  if (!raw.finite) return {-1, kNan, false};
  const float* row = process(input, params, scratch);
  float peak = raw.peak;
  if (row != input.logits) peak = body.lane_maxima(scratch.maxima, row, input.vocab);
  if (!std::isfinite(peak)) return {-1, kNan, false};
  const int32_t id = params.temperature == 0 ? first_of(row, input.vocab, scratch.maxima, peak)
                                             : draw(body, row, peak, input, params, scratch);
  return {id, raw.logprob(input.logits[id]), true};
}

bool top_logprobs(int32_t* ids, float* logprobs, int64_t n, const float* logits, int64_t vocab,
                  void* memory, Isa isa) {
  const SamplingBody body = body_of(isa);
  const Scratch scratch(memory, vocab);
  const Normalizer raw = normalizer_of(body, logits, vocab, scratch.maxima);
  if (!raw.finite) {
    std::fill_n(ids, n, -1);
    std::fill_n(logprobs, n, kNan);
    return false;
  }
  const Candidates best = largest(body, logits, vocab, n, scratch);
  // More than n where several equal the n-th: the lowest ids of those stay.
  const float last = *std::min_element(best.values, best.values + best.count);
  int64_t equals = n;
  for (int64_t i = 0; i < best.count; ++i) equals -= best.values[i] > last;
  int64_t taken = 0;
  for (int64_t i = 0; i < best.count; ++i) {
    const bool larger = best.values[i] > last;
    if (!larger && equals-- <= 0) continue;
    ids[taken++] = best.ids[i];
  }
  std::sort(ids, ids + n, [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  for (int64_t i = 0; i < n; ++i) logprobs[i] = raw.logprob(logits[ids[i]]);
  return true;
}

void log_softmax_row(float* y, const float* logits, int64_t vocab, Isa isa) {
  const SamplingBody body = body_of(isa);
  float maxima[kChunkMaxima], peak = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < vocab; i += kChunk) {
    peak = std::max(peak, body.lane_maxima(maxima, logits + i, std::min(kChunk, vocab - i)));
  }
  const double sum = body.sum_exp(logits, vocab, peak);
  body.subtract_both(y, logits, vocab, peak, static_cast<float>(std::log(sum)));
}

// --- validation ---------------------------------------------------------------------------------
namespace {

// Not NaN, and within.
bool within(double value, double least, double most) { return value >= least && value <= most; }

std::string numbers_why_not(const SamplingParams& p) {
  constexpr double kMost = std::numeric_limits<float>::max();
  if (!within(p.temperature, 0, kMost)) {
    return concat("temperature is ", p.temperature, ", expected a finite number >= 0");
  }
  if (p.top_k < 0) return concat("top_k is ", p.top_k, ", expected 0 (all) or more");
  if (!within(p.top_p, 0, 1) || p.top_p == 0) {
    return concat("top_p is ", p.top_p, ", expected a number above 0 and up to 1");
  }
  if (!within(p.min_p, 0, 1))
    return concat("min_p is ", p.min_p, ", expected a number from 0 to 1");
  if (!within(p.repetition_penalty, static_cast<double>(0.01f), 100)) {
    return concat("repetition_penalty is ", p.repetition_penalty,
                  ", expected a number from 0.01 to 100");
  }
  if (!within(p.presence_penalty, -100, 100)) {
    return concat("presence_penalty is ", p.presence_penalty,
                  ", expected a number from -100 to 100");
  }
  if (!within(p.frequency_penalty, -100, 100)) {
    return concat("frequency_penalty is ", p.frequency_penalty,
                  ", expected a number from -100 to 100");
  }
  return {};
}

}  // namespace

std::string sampling_why_not(const SamplingParams& p, int64_t vocab) {
  if (vocab < 1 || vocab > kMaxVocab) {
    return concat("the vocabulary is ", vocab, " ids, expected 1..2^22");
  }
  if (std::string why = numbers_why_not(p); !why.empty()) return why;
  for (size_t i = 0; i < p.logit_bias.size(); ++i) {
    const auto& [id, bias] = p.logit_bias[i];
    if (id < 0 || id >= vocab) {
      return concat("logit_bias[", i, "] is for id ", id, ", expected 0..", vocab - 1);
    }
    if (!std::isfinite(bias)) {
      return concat("logit_bias[", i, "] of id ", id, " is ", bias, ", expected a finite number");
    }
  }
  for (size_t i = 0; i < p.banned.size(); ++i) {
    if (p.banned[i] < 0 || p.banned[i] >= vocab) {
      return concat("banned[", i, "] is ", p.banned[i], ", expected 0..", vocab - 1);
    }
  }
  const int64_t words = (vocab + 31) / 32;
  if (!p.allowed.empty() && static_cast<int64_t>(p.allowed.size()) != words) {
    return concat("allowed has ", p.allowed.size(), " words, expected ", words);
  }
  return {};
}

}  // namespace tgv::cpu
